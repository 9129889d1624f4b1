# Functions that every folder uses, so that flags and install rules are written once.

# The arithmetic is compiled for one fixed instruction set: results then do not depend on the machine that builds.
set(_default_architecture "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(_default_architecture "x86-64-v3")
endif()
set(EVICTSIM_ARCHITECTURE "${_default_architecture}" CACHE STRING "Value for -march=; empty: the compiler's default")

set(CMAKE_CXX_EXTENSIONS OFF)
add_library(evictsim_build_flags INTERFACE)
target_compile_features(evictsim_build_flags INTERFACE cxx_std_20)
target_compile_options(evictsim_build_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wnon-virtual-dtor -Woverloaded-virtual
  # Designated initializers leave fields out on purpose.
  -Wno-missing-field-initializers
  # False alarms of GCC 12 on string concatenation (PR 105651).
  $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict>
  $<$<BOOL:${EVICTSIM_WARNINGS_AS_ERRORS}>:-Werror>
  $<$<BOOL:${EVICTSIM_ARCHITECTURE}>:-march=${EVICTSIM_ARCHITECTURE}>
  # Fused multiply-add only where it is written (Eigen's kernels): the same bits from every optimisation level.
  -ffp-contract=off
  # Nothing reads errno or the processor's exception flags after arithmetic; the results are the same bits.
  -fno-math-errno -fno-trapping-math)
if(EVICTSIM_SANITIZE)
  target_compile_options(evictsim_build_flags INTERFACE
    -fsanitize=${EVICTSIM_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(evictsim_build_flags INTERFACE -fsanitize=${EVICTSIM_SANITIZE})
endif()
if(EVICTSIM_SANITIZE MATCHES "thread")
  # The system's oneTBB is not instrumented, see that folder.
  target_include_directories(evictsim_build_flags BEFORE INTERFACE
    ${PROJECT_SOURCE_DIR}/tests/support/thread_sanitizer)
endif()

# Used only while compiling: a program that links an installed evictsim does not have to find these.
set(_evictsim_header_only Boost::boost Boost::headers Eigen3::Eigen lemon::headers nlohmann_json::nlohmann_json)

# evictsim_library(<folder> [WHOLE_ARCHIVE] SOURCES <file>... [PRIVATE_HEADERS <file>...]
#                  [PUBLIC <target>...] [PRIVATE <target>...])
#
# One static library per folder, evictsim::<folder> here and after find_package(evictsim). Every header of the folder is
# installed under include/evictsim/<folder>, but for PRIVATE_HEADERS and those under cli/ and capture/.
#
# WHOLE_ARCHIVE is for libraries whose parts register themselves: nothing refers to such an object, so a linker would
# leave it out. evictsim::<folder> is then a front that pulls in all of evictsim::<folder>_archive, also for users of
# the installed package.
function(evictsim_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "WHOLE_ARCHIVE" "" "SOURCES;PRIVATE_HEADERS;PUBLIC;PRIVATE")
  if(NOT arg_SOURCES OR arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "evictsim_library(${name}) needs SOURCES; not understood: '${arg_UNPARSED_ARGUMENTS}'")
  endif()

  set(library evictsim_${name})
  set(exported ${name})
  if(arg_WHOLE_ARCHIVE)
    set(library evictsim_${name}_archive)
    set(exported ${name}_archive)
    add_library(evictsim_${name} INTERFACE)
    add_library(evictsim::${name} ALIAS evictsim_${name})
    set_target_properties(evictsim_${name} PROPERTIES EXPORT_NAME ${name})
    # By its exported name: the export leaves names inside this expression as they are.
    target_link_libraries(evictsim_${name} INTERFACE $<LINK_LIBRARY:WHOLE_ARCHIVE,evictsim::${exported}>)
  endif()

  add_library(${library} STATIC ${arg_SOURCES})
  add_library(evictsim::${exported} ALIAS ${library})
  set_target_properties(${library} PROPERTIES EXPORT_NAME ${exported} POSITION_INDEPENDENT_CODE ON)
  target_compile_features(${library} PUBLIC cxx_std_20)
  # Eigen's allocations must agree between our code and a user's, whatever instruction set either is built for.
  target_compile_definitions(${library} PUBLIC EIGEN_MAX_ALIGN_BYTES=64)
  target_include_directories(${library} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/evictsim>)
  target_link_libraries(${library} PUBLIC ${arg_PUBLIC} PRIVATE $<BUILD_INTERFACE:evictsim_build_flags>)
  foreach(dependency IN LISTS arg_PRIVATE)
    if(dependency IN_LIST _evictsim_header_only)
      target_link_libraries(${library} PRIVATE $<BUILD_INTERFACE:${dependency}>)
    else()
      target_link_libraries(${library} PRIVATE ${dependency})
    endif()
  endforeach()

  set_property(GLOBAL APPEND PROPERTY EVICTSIM_EXPORTED ${library})
  if(arg_WHOLE_ARCHIVE)
    set_property(GLOBAL APPEND PROPERTY EVICTSIM_EXPORTED evictsim_${name})
  endif()
  file(GLOB_RECURSE headers RELATIVE ${PROJECT_SOURCE_DIR} CONFIGURE_DEPENDS *.h)
  foreach(header IN LISTS arg_PRIVATE_HEADERS)
    list(REMOVE_ITEM headers ${name}/${header})
  endforeach()
  list(FILTER headers EXCLUDE REGEX "/(cli|capture)/")
  set_property(GLOBAL APPEND PROPERTY EVICTSIM_PUBLIC_HEADERS ${headers})
endfunction()

# evictsim_executable(<name> SOURCES <file>... LIBS <target>...): a program that is installed.
function(evictsim_executable name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBS")
  if(NOT arg_SOURCES OR arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "evictsim_executable(${name}) needs SOURCES; not understood: '${arg_UNPARSED_ARGUMENTS}'")
  endif()
  add_executable(${name} ${arg_SOURCES})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
  target_link_libraries(${name} PRIVATE ${arg_LIBS} evictsim_build_flags)
  set_property(GLOBAL APPEND PROPERTY EVICTSIM_PROGRAMS ${name})
endfunction()

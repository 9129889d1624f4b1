# How tests are made and registered.

find_package(Catch2 2.13 REQUIRED)

# Catch2 v2 compiles its runner into every program that asks for a main; this library asks once for all of them.
add_library(evictsim_test_main STATIC ${PROJECT_SOURCE_DIR}/tests/support/main.cpp)
target_compile_features(evictsim_test_main PUBLIC cxx_std_20)
target_link_libraries(evictsim_test_main PUBLIC Catch2::Catch2 evictsim_build_flags)

# The labels a test may carry. The first three tiers also run under the sanitizers.
set(EVICTSIM_TEST_LABELS
  unit contract fuzz                                  # one piece; every registered policy; damaged input
  golden theory property capture cli                  # other people's numbers; closed forms; random cases; recording
  browser                                             # the report's page in headless Chromium
  consumer structure docs                             # the installed package; the source tree; the documents' commands
  threads                                             # in addition: also runs under the thread sanitizer
  slow gpu python)                                    # only when asked for: ./dev test slow
foreach(label IN LISTS EVICTSIM_TEST_LABELS)
  add_custom_target(tests_${label})
endforeach()

# evictsim_add_test(NAME <name> LABELS <label>... SOURCES <file>... LIBS <target>...
#                   [PROGRAMS <target>...] [TIMEOUT <seconds>] [ARGUMENTS <argument>...])
#
# One executable test_<name>, one CTest test <name>. Sources are relative to the calling folder. Compile definitions
# for the test: EVICTSIM_SOURCE_DIR, the source tree; EVICTSIM_TEST_SCRATCH, a folder of its own in the build tree
# (also the working directory); EVICTSIM_BIN_DIR, where our programs are (also first in PATH). PROGRAMS are built
# before the test runs.
function(evictsim_add_test)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "NAME;TIMEOUT" "LABELS;SOURCES;LIBS;PROGRAMS;ARGUMENTS")
  if(NOT arg_NAME OR NOT arg_LABELS OR NOT arg_SOURCES OR arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "evictsim_add_test needs NAME, LABELS and SOURCES; not understood: '${arg_UNPARSED_ARGUMENTS}'")
  endif()
  set(scratch ${PROJECT_BINARY_DIR}/test-scratch/${arg_NAME})
  file(MAKE_DIRECTORY ${scratch})
  add_executable(test_${arg_NAME} ${arg_SOURCES})
  target_include_directories(test_${arg_NAME} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(test_${arg_NAME} PRIVATE ${arg_LIBS} evictsim_test_main)
  target_compile_definitions(test_${arg_NAME} PRIVATE
    EVICTSIM_SOURCE_DIR="${PROJECT_SOURCE_DIR}" EVICTSIM_TEST_SCRATCH="${scratch}"
    EVICTSIM_BIN_DIR="${PROJECT_BINARY_DIR}/bin")
  if(arg_PROGRAMS)
    add_dependencies(test_${arg_NAME} ${arg_PROGRAMS})
  endif()
  # A test case without assertions is a mistake, so it fails.
  add_test(NAME ${arg_NAME} COMMAND test_${arg_NAME} --warn NoAssertions ${arg_ARGUMENTS} WORKING_DIRECTORY ${scratch})
  evictsim_label_test(${arg_NAME} LABELS ${arg_LABELS} TIMEOUT ${arg_TIMEOUT} TARGET test_${arg_NAME})
endfunction()

# evictsim_label_test(<CTest test> LABELS <label>... [TIMEOUT <seconds>] [TARGET <target that must be built>]):
# labels, time limit and PATH of a test that was added with add_test. Exit status 77 means skipped.
function(evictsim_label_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT;TARGET" "LABELS")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  foreach(label IN LISTS arg_LABELS)
    if(NOT label IN_LIST EVICTSIM_TEST_LABELS)
      message(FATAL_ERROR "test ${name}: unknown label '${label}', known: ${EVICTSIM_TEST_LABELS}")
    endif()
    if(arg_TARGET)
      add_dependencies(tests_${label} ${arg_TARGET})
    endif()
  endforeach()
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${arg_TIMEOUT} SKIP_RETURN_CODE 77
    ENVIRONMENT_MODIFICATION "PATH=path_list_prepend:${PROJECT_BINARY_DIR}/bin")
endfunction()

# Install rules and the package that find_package(evictsim) reads.
include(CMakePackageConfigHelpers)

get_property(_libraries GLOBAL PROPERTY EVICTSIM_EXPORTED)
get_property(_programs GLOBAL PROPERTY EVICTSIM_PROGRAMS)
get_property(_headers GLOBAL PROPERTY EVICTSIM_PUBLIC_HEADERS)
set(_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/evictsim)

install(TARGETS ${_libraries} EXPORT evictsim ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(_programs)
  install(TARGETS ${_programs} EXPORT evictsim
    RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
foreach(header IN LISTS _headers)
  cmake_path(GET header PARENT_PATH folder)
  install(FILES ${PROJECT_SOURCE_DIR}/${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/evictsim/${folder})
endforeach()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/models/gpus ${PROJECT_SOURCE_DIR}/models/engines ${PROJECT_SOURCE_DIR}/models/storage ${PROJECT_SOURCE_DIR}/models/llms DESTINATION ${CMAKE_INSTALL_DATADIR}/evictsim
  FILES_MATCHING PATTERN "*.json")
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

install(EXPORT evictsim NAMESPACE evictsim:: FILE evictsim-targets.cmake DESTINATION ${_package_dir})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/evictsim-config.cmake.in
  ${PROJECT_BINARY_DIR}/evictsim-config.cmake INSTALL_DESTINATION ${_package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/evictsim-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/evictsim-config.cmake ${PROJECT_BINARY_DIR}/evictsim-config-version.cmake
  ${PROJECT_SOURCE_DIR}/cmake/FindHDF5C.cmake
  DESTINATION ${_package_dir})

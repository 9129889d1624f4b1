# LEMON's graph algorithms, which are templates: lemon::headers.
find_path(LEMON_INCLUDE_DIR lemon/network_simplex.h)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LemonHeaders REQUIRED_VARS LEMON_INCLUDE_DIR
                                  REASON_FAILURE_MESSAGE "Debian's package is liblemon-dev")
if(NOT TARGET lemon::headers)
  add_library(lemon::headers INTERFACE IMPORTED)
  target_include_directories(lemon::headers SYSTEM INTERFACE ${LEMON_INCLUDE_DIR})
endif()

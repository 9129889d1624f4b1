# Finds the CUDA Toolkit and the architectures that it compiles for. Without it EVICTSIM_CUDA is off, which
# traces/capture/cuda says.
include(CheckLanguage)

check_language(CUDA)
find_package(CUDAToolkit QUIET)
if(NOT CMAKE_CUDA_COMPILER OR NOT CUDAToolkit_FOUND)
  set(EVICTSIM_CUDA_TOOLKIT_MISSING ON)
  set(EVICTSIM_CUDA OFF)
  return()
endif()

# Code for every architecture of this toolkit, and for the newest also in the form that later devices compile.
if(NOT EVICTSIM_CUDA_ARCHITECTURES)
  execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-code OUTPUT_VARIABLE _codes
                  COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "sm_[0-9]+" _codes "${_codes}")
  list(TRANSFORM _codes REPLACE "sm_" "")
  list(SORT _codes COMPARE NATURAL)
  list(REMOVE_DUPLICATES _codes)
  list(GET _codes -1 _newest)
  list(TRANSFORM _codes APPEND "-real")
  set(EVICTSIM_CUDA_ARCHITECTURES ${_codes} ${_newest}-virtual CACHE STRING "As CMake's CUDA_ARCHITECTURES")
endif()
enable_language(CUDA)
message(STATUS "CUDA Toolkit ${CUDAToolkit_VERSION}: ${CMAKE_CUDA_COMPILER}")

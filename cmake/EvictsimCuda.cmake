# Finds the CUDA Toolkit, or says what to do about it.
include(CheckLanguage)

check_language(CUDA)
find_package(CUDAToolkit QUIET)
if(NOT CMAKE_CUDA_COMPILER OR NOT CUDAToolkit_FOUND)
  message(FATAL_ERROR
    "EVICTSIM_CUDA=ON needs the CUDA Toolkit, which was not found. Install it and put nvcc into PATH (or set CUDACXX "
    "to its path), or configure without it: cmake --preset dev")
endif()
enable_language(CUDA)
message(STATUS "CUDA Toolkit ${CUDAToolkit_VERSION}: ${CMAKE_CUDA_COMPILER}")

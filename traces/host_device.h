#pragma once
/// \file
/// Marks functions that CUDA kernels share with host code, so that host tests run the bodies that a device runs.

#if defined(__CUDACC__)
#define EVICTSIM_HOST_DEVICE __host__ __device__
#else
#define EVICTSIM_HOST_DEVICE
#endif

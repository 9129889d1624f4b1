#pragma once
/// \file
/// CudaRuntime by the CUDA Toolkit's runtime.

#include <memory>

#include "traces/capture/cuda/runtime.h"

namespace evictsim::traces::capture {

/// The runtime of this process. Throws Error (unsupported) on a machine without a driver or device.
std::unique_ptr<CudaRuntime> make_toolkit_runtime();

}  // namespace evictsim::traces::capture

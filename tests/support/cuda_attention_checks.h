#pragma once
/// \file
/// Checks of the probe's kernels, on whatever runtime is given: the double or a device.

#include "traces/capture/cuda/runtime.h"

namespace evictsim::tests {

/// Decode attention against the float64 reference: element types, groups, widths, page sizes, ragged lengths, empty
/// heads, every copy of the cache.
void check_decode_attention(traces::capture::CudaRuntime& runtime);
/// Every 16 bytes are read once, for sizes that leave a rest at every level.
void check_memory_read(traces::capture::CudaRuntime& runtime);

}  // namespace evictsim::tests

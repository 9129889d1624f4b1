#pragma once
/// \file
/// Checks of the capture kernels against Eigen, on whatever runtime is given: the double or a device.

#include "traces/capture/cuda/runtime.h"

namespace evictsim::tests {

/// Every combination of element types and layouts: dense, permuted, strided, reversed, broadcast, paged, lists.
void check_gather(traces::capture::CudaRuntime& runtime);
/// All patterns of the 16-bit and 8-bit formats, and roundings between them.
void check_casts(traces::capture::CudaRuntime& runtime);
/// Entropies, log-probabilities and the most probable token, over vocabularies, types, ties and infinities.
void check_logits(traces::capture::CudaRuntime& runtime);
/// Norms, cosines and distances over widths and types.
void check_comparison(traces::capture::CudaRuntime& runtime);

}  // namespace evictsim::tests

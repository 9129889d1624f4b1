#pragma once
/// \file
/// The kernels as functions that launch them; the bodies are the functors' own.

#include <cuda_runtime_api.h>

#include "traces/capture/cuda/decode_attention.h"
#include "traces/capture/cuda/gather_rows.h"
#include "traces/capture/cuda/graph_ring.h"
#include "traces/capture/cuda/memory_read.h"
#include "traces/capture/cuda/row_statistics.h"

namespace evictsim::traces::capture {

/// Each launches behind what `stream` has been given and returns what the launch came to; no rows: nothing to launch.
cudaError_t launch_kernel(const RowGather& job, cudaStream_t stream);
cudaError_t launch_kernel(const LogitStatistics& job, cudaStream_t stream);
cudaError_t launch_kernel(const RowComparison& job, cudaStream_t stream);
cudaError_t launch_kernel(const GraphClaim& job, cudaStream_t stream);
cudaError_t launch_kernel(const GraphPublish& job, cudaStream_t stream);
cudaError_t launch_kernel(const GraphStep& job, cudaStream_t stream);

/// Loads all of them into the current device.
cudaError_t load_kernels();
cudaError_t launch_kernel(const MemoryRead& job, cudaStream_t stream);
cudaError_t launch_kernel(const DecodeAttention& job, cudaStream_t stream);
cudaError_t launch_kernel(const AttentionMerge& job, cudaStream_t stream);

}  // namespace evictsim::traces::capture

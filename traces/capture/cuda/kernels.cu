#include <algorithm>

#include "traces/capture/cuda/kernels.h"

namespace evictsim::traces::capture {
namespace {

constexpr unsigned warp = 32;
constexpr unsigned lines_per_block = 8;
constexpr std::int64_t most_blocks = 65535;

/// A warp per line: neighbouring lanes read and write neighbouring elements.
__global__ void gather_lines(RowGather job) {
  const std::int64_t lines = job.lines();
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * lines_per_block;
  for (std::int64_t line = static_cast<std::int64_t>(blockIdx.x) * lines_per_block + threadIdx.y; line < lines;
       line += step) {
    job(line, threadIdx.x, warp);
  }
}

/// A block per row.
template <typename Job>
__global__ void reduce_rows(Job job) {
  __shared__ typename Job::Scratch scratch;
  for (std::int64_t row = blockIdx.x; row < job.rows; row += gridDim.x) job(row, BlockTeam{}, scratch);
}

/// As above. At least two blocks per multiprocessor: one alone would wait for memory most of the time.
template <ElementType type>
__global__ void __launch_bounds__(team_lanes, 2) attend_parts(DecodeAttention job) {
  __shared__ DecodeAttention::Scratch scratch;
  for (std::int64_t row = blockIdx.x; row < job.rows; row += gridDim.x) job.attend<type>(row, BlockTeam{}, scratch);
}

template <typename Job>
__global__ void run_once(Job job) {
  job();
}

/// By the call that returns its own status: what <<<>>> leaves behind is mixed up with errors of the engine.
template <typename Job>
cudaError_t launch(void (*kernel)(Job), const Job& job, std::int64_t blocks, dim3 threads, cudaStream_t stream) {
  if (blocks == 0) return cudaSuccess;
  Job copy = job;
  void* arguments[] = {&copy};
  return cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(std::min(blocks, most_blocks))), threads, arguments, 0,
                          stream);
}

template <typename Job>
cudaError_t launch_rows(const Job& job, cudaStream_t stream) {
  return launch(reduce_rows<Job>, job, job.rows, dim3(team_lanes), stream);
}

template <typename Job>
cudaError_t launch_once(const Job& job, cudaStream_t stream) {
  return launch(run_once<Job>, job, 1, dim3(1), stream);
}

}  // namespace

cudaError_t launch_kernel(const RowGather& job, cudaStream_t stream) {
  const std::int64_t blocks = (job.lines() + lines_per_block - 1) / lines_per_block;
  return launch(gather_lines, job, blocks, dim3(warp, lines_per_block), stream);
}

cudaError_t launch_kernel(const LogitStatistics& job, cudaStream_t stream) { return launch_rows(job, stream); }
cudaError_t launch_kernel(const RowComparison& job, cudaStream_t stream) { return launch_rows(job, stream); }
cudaError_t launch_kernel(const GraphClaim& job, cudaStream_t stream) { return launch_once(job, stream); }
cudaError_t launch_kernel(const GraphPublish& job, cudaStream_t stream) { return launch_once(job, stream); }
cudaError_t launch_kernel(const GraphStep& job, cudaStream_t stream) { return launch_once(job, stream); }
cudaError_t launch_kernel(const MemoryRead& job, cudaStream_t stream) { return launch_rows(job, stream); }
cudaError_t launch_kernel(const DecodeAttention& job, cudaStream_t stream) {
  return DecodeAttention::with_type(job.cache.type, [&](auto type) {
    return launch(attend_parts<decltype(type)::value>, job, job.rows, dim3(team_lanes), stream);
  });
}
cudaError_t launch_kernel(const AttentionMerge& job, cudaStream_t stream) { return launch_rows(job, stream); }

cudaError_t load_kernels() {
  const void* const kernels[] = {reinterpret_cast<const void*>(gather_lines),
                                 reinterpret_cast<const void*>(reduce_rows<LogitStatistics>),
                                 reinterpret_cast<const void*>(reduce_rows<RowComparison>),
                                 reinterpret_cast<const void*>(run_once<GraphClaim>),
                                 reinterpret_cast<const void*>(run_once<GraphPublish>),
                                 reinterpret_cast<const void*>(run_once<GraphStep>)};
  for (const void* kernel : kernels) {
    cudaFuncAttributes attributes{};
    if (const cudaError_t status = cudaFuncGetAttributes(&attributes, kernel); status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace evictsim::traces::capture

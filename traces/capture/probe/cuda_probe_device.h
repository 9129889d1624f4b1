#pragma once
/// \file
/// ProbeDevice on a CUDA device, over the runtime's interface and the few further calls that only the probe makes.

#include <memory>

#include "traces/capture/cuda/resource.h"
#include "traces/capture/probe/probe_device.h"

namespace evictsim::traces::capture {

/// Calls of the CUDA runtime for the probe alone. One thread.
class ProbeCalls {
 public:
  virtual ~ProbeCalls() = default;
  virtual CudaResult facts(int device, DeviceFacts& facts) = 0;
  /// Devices that `device` can reach directly; access is enabled.
  virtual CudaResult peers(int device, std::vector<int>& peers) = 0;
  /// cudaMemcpyAsync between two devices.
  virtual CudaResult copy_between(void* target, const void* source, std::size_t bytes, CudaStream stream) = 0;
  /// Seconds that a stream takes from `start_clock` to `stop_clock`, which waits: cudaEventElapsedTime.
  virtual CudaResult start_clock(CudaStream stream) = 0;
  virtual CudaResult stop_clock(CudaStream stream, double& seconds) = 0;
};

/// Waits for a stream at the end of a scope, whatever ends it: memory that pending work uses must not go before.
class StreamDrain {
 public:
  StreamDrain(CudaRuntime& runtime, CudaStream stream) : runtime_(runtime), stream_(stream) {}
  StreamDrain(const StreamDrain&) = delete;
  StreamDrain& operator=(const StreamDrain&) = delete;
  ~StreamDrain() { static_cast<void>(runtime_.synchronize_stream(stream_)); }

 private:
  CudaRuntime& runtime_;
  CudaStream stream_;
};

/// Keys, values, pages and results of one attention case in device memory. Pages of a head are scattered over the whole
/// pool, as in an engine that has run for a while, and there are enough copies of the cache that a step does not find
/// its entries in the L2 cache, as in a model of many layers.
class PagedCacheMemory {
 public:
  /// Queries, keys and values are made-up numbers. Throws Error (invalid_argument) for a shape that the kernel does not
  PagedCacheMemory(CudaRuntime& runtime, CudaStream stream, const AttentionCase& step, std::int64_t l2_bytes);
  PagedCacheMemory(const PagedCacheMemory&) = delete;
  PagedCacheMemory& operator=(const PagedCacheMemory&) = delete;
  ~PagedCacheMemory() = default;

  /// Enqueues the step over copy `number % copies`.
  void launch(std::int64_t number);
  [[nodiscard]] std::int64_t copies() const noexcept { return copies_; }

  // For tests: what the kernels read and wrote.
  [[nodiscard]] const PagedCache& cache() const noexcept { return cache_; }
  [[nodiscard]] const float* output() const noexcept { return static_cast<const float*>(output_.get()); }
  [[nodiscard]] std::int64_t pool_pages() const noexcept { return pool_pages_; }

 private:
  CudaResource upload(const void* data, std::size_t bytes);

  CudaRuntime& runtime_;
  CudaStream stream_;
  PagedCache cache_;
  AttentionParts parts_;
  std::int64_t copies_ = 1, pool_pages_ = 0;
  CudaResource query_, keys_, values_, lengths_, pages_, part_output_, part_highest_, part_sum_, output_;
  StreamDrain drain_;  // last, so first to go
};

/// How many copies of a cache of `bytes` are needed so that the whole pool is four times as large as the L2 cache.
std::int64_t cache_copies(std::int64_t bytes, std::int64_t l2_bytes);

std::unique_ptr<ProbeDevice> make_cuda_probe_device(std::shared_ptr<CudaRuntime> runtime,
                                                    std::unique_ptr<ProbeCalls> calls, int device);

}  // namespace evictsim::traces::capture

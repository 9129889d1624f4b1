#pragma once
/// \file
/// The few calls of the CUDA runtime that the copy engine and the probe make, as an interface: the toolkit's own
/// runtime behind it in a build with CUDA, a double with a seeded scheduler behind it in tests. Semantics are those of
/// the runtime call that is named beside each function.

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>

#include "traces/capture/cuda/decode_attention.h"
#include "traces/capture/cuda/gather_rows.h"
#include "traces/capture/cuda/graph_ring.h"
#include "traces/capture/cuda/memory_read.h"
#include "traces/capture/cuda/row_statistics.h"

namespace evictsim::traces::capture {

/// What a runtime call came to.
struct CudaResult {
  enum class Kind : std::uint8_t {
    success,
    out_of_memory,
    no_device,         ///< no driver, or no device
    context_lost,      ///< an earlier kernel or copy broke the context; nothing works any more
    capture_conflict,  ///< not allowed while a stream is being captured
    failure,           ///< anything else
  };
  Kind kind = Kind::success;
  std::string text;  ///< the runtime's own words

  [[nodiscard]] bool ok() const noexcept { return kind == Kind::success; }
};

using CudaStream = void*;
using CudaEvent = void*;

/// A stream's part in the capture of a graph.
struct StreamCapture {
  enum class State : std::uint8_t { none, active, invalidated } state = State::none;
  std::uint64_t graph = 0;  ///< unique to the capture
};

/// What a thread may do while streams are being captured; `relaxed`: allocate and wait without breaking captures.
enum class CaptureMode : std::uint8_t { global, thread_local_only, relaxed };

/// Everything that is ever launched: the copy engine's kernels and those of the probe.
using KernelJob = std::variant<RowGather, LogitStatistics, RowComparison, GraphClaim, GraphPublish, GraphStep,
                               MemoryRead, DecodeAttention, AttentionMerge>;

/// Any thread may call; every function but the NVTX ones may fail.
class CudaRuntime {
 public:
  virtual ~CudaRuntime() = default;

  virtual CudaResult exchange_device(int device, int& previous) = 0;  ///< cudaGetDevice, cudaSetDevice
  /// cudaThreadExchangeStreamCaptureMode: sets this thread's mode and returns the one before in `mode`.
  virtual CudaResult exchange_capture_mode(CaptureMode& mode) = 0;

  virtual CudaResult allocate(std::size_t bytes, void*& memory) = 0;       ///< cudaMalloc
  virtual CudaResult release(void* memory) = 0;                            ///< cudaFree
  virtual CudaResult allocate_host(std::size_t bytes, void*& memory) = 0;  ///< cudaHostAlloc: pinned
  virtual CudaResult release_host(void* memory) = 0;                       ///< cudaFreeHost

  virtual CudaResult create_stream(CudaStream& stream) = 0;  ///< cudaStreamCreateWithFlags, not blocking
  virtual CudaResult destroy_stream(CudaStream stream) = 0;  ///< cudaStreamDestroy
  virtual CudaResult create_event(CudaEvent& event) = 0;     ///< cudaEventCreateWithFlags, no timing, blocking wait
  virtual CudaResult destroy_event(CudaEvent event) = 0;     ///< cudaEventDestroy

  virtual CudaResult record_event(CudaEvent event, CudaStream stream) = 0;  ///< cudaEventRecord
  virtual CudaResult wait_event(CudaStream stream, CudaEvent event) = 0;    ///< cudaStreamWaitEvent
  virtual CudaResult synchronize_event(CudaEvent event) = 0;                ///< cudaEventSynchronize
  virtual CudaResult synchronize_stream(CudaStream stream) = 0;             ///< cudaStreamSynchronize
  virtual CudaResult synchronize_device() = 0;                              ///< cudaDeviceSynchronize

  /// cudaMemcpyAsync; host memory is pinned.
  virtual CudaResult copy_to_host(void* host, const void* device, std::size_t bytes, CudaStream stream) = 0;
  virtual CudaResult copy_to_device(void* device, const void* host, std::size_t bytes, CudaStream stream) = 0;
  /// Loads every kernel into the current device (cudaFuncGetAttributes): loading one late could break a capture.
  virtual CudaResult load_kernels() = 0;
  virtual CudaResult launch(const KernelJob& job, CudaStream stream) = 0;
  virtual CudaResult capture_of(CudaStream stream, StreamCapture& capture) = 0;  ///< cudaStreamGetCaptureInfo

  virtual void begin_range(const char* name) noexcept = 0;  ///< nvtxRangePush
  virtual void end_range() noexcept = 0;                    ///< nvtxRangePop
};

}  // namespace evictsim::traces::capture

#include "traces/capture/cuda/toolkit_runtime.h"

#include <cuda_runtime_api.h>
#include <nvtx3/nvToolsExt.h>

#include <utility>

#include "traces/capture/cuda/kernels.h"
#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

CudaResult::Kind kind_of(cudaError_t status) {
  switch (status) {
    case cudaSuccess:
      return CudaResult::Kind::success;
    case cudaErrorMemoryAllocation:
      return CudaResult::Kind::out_of_memory;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
      return CudaResult::Kind::no_device;
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorCudartUnloading:
    case cudaErrorContextIsDestroyed:
      return CudaResult::Kind::context_lost;
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
    case cudaErrorStreamCaptureMerge:
    case cudaErrorStreamCaptureUnmatched:
    case cudaErrorStreamCaptureUnjoined:
    case cudaErrorStreamCaptureIsolation:
    case cudaErrorStreamCaptureImplicit:
    case cudaErrorCapturedEvent:
    case cudaErrorStreamCaptureWrongThread:
      return CudaResult::Kind::capture_conflict;
    default:
      return CudaResult::Kind::failure;
  }
}

CudaResult result_of(cudaError_t status) {
  if (status == cudaSuccess) return {};
  // Errors that do not stick are also kept for the next cudaGetLastError, which belongs to the engine, not to us.
  static_cast<void>(cudaGetLastError());
  return {kind_of(status), std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status)};
}

cudaStream_t stream_of(CudaStream stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t event_of(CudaEvent event) { return static_cast<cudaEvent_t>(event); }

class ToolkitRuntime final : public CudaRuntime {
 public:
  CudaResult exchange_device(int device, int& previous) override {
    const CudaResult asked = result_of(cudaGetDevice(&previous));
    if (!asked.ok() || previous == device) return asked;
    return result_of(cudaSetDevice(device));
  }
  CudaResult exchange_capture_mode(CaptureMode& mode) override {
    auto exchanged = static_cast<cudaStreamCaptureMode>(mode);
    const CudaResult result = result_of(cudaThreadExchangeStreamCaptureMode(&exchanged));
    mode = static_cast<CaptureMode>(exchanged);
    return result;
  }
  static_assert(static_cast<int>(CaptureMode::global) == cudaStreamCaptureModeGlobal &&
                static_cast<int>(CaptureMode::thread_local_only) == cudaStreamCaptureModeThreadLocal &&
                static_cast<int>(CaptureMode::relaxed) == cudaStreamCaptureModeRelaxed);

  CudaResult allocate(std::size_t bytes, void*& memory) override { return result_of(cudaMalloc(&memory, bytes)); }
  CudaResult release(void* memory) override { return result_of(cudaFree(memory)); }
  CudaResult allocate_host(std::size_t bytes, void*& memory) override {
    return result_of(cudaHostAlloc(&memory, bytes, cudaHostAllocDefault));
  }
  CudaResult release_host(void* memory) override { return result_of(cudaFreeHost(memory)); }

  CudaResult create_stream(CudaStream& stream) override {
    cudaStream_t created = nullptr;
    const CudaResult result = result_of(cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking));
    stream = created;
    return result;
  }
  CudaResult destroy_stream(CudaStream stream) override { return result_of(cudaStreamDestroy(stream_of(stream))); }
  CudaResult create_event(CudaEvent& event) override {
    cudaEvent_t created = nullptr;
    const unsigned flags = cudaEventDisableTiming | cudaEventBlockingSync;
    const CudaResult result = result_of(cudaEventCreateWithFlags(&created, flags));
    event = created;
    return result;
  }
  CudaResult destroy_event(CudaEvent event) override { return result_of(cudaEventDestroy(event_of(event))); }

  CudaResult record_event(CudaEvent event, CudaStream stream) override {
    return result_of(cudaEventRecord(event_of(event), stream_of(stream)));
  }
  CudaResult wait_event(CudaStream stream, CudaEvent event) override {
    return result_of(cudaStreamWaitEvent(stream_of(stream), event_of(event), 0));
  }
  CudaResult synchronize_event(CudaEvent event) override { return result_of(cudaEventSynchronize(event_of(event))); }
  CudaResult synchronize_stream(CudaStream stream) override {
    return result_of(cudaStreamSynchronize(stream_of(stream)));
  }
  CudaResult synchronize_device() override { return result_of(cudaDeviceSynchronize()); }

  CudaResult copy_to_host(void* host, const void* device, std::size_t bytes, CudaStream stream) override {
    return result_of(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_of(stream)));
  }
  CudaResult copy_to_device(void* device, const void* host, std::size_t bytes, CudaStream stream) override {
    return result_of(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_of(stream)));
  }
  CudaResult load_kernels() override { return result_of(traces::capture::load_kernels()); }
  CudaResult launch(const KernelJob& job, CudaStream stream) override {
    return result_of(std::visit([&](const auto& kernel) { return launch_kernel(kernel, stream_of(stream)); }, job));
  }
  CudaResult capture_of(CudaStream stream, StreamCapture& capture) override {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    unsigned long long graph = 0;
    const CudaResult result = result_of(cudaStreamGetCaptureInfo(stream_of(stream), &status, &graph));
    capture = {};
    if (status == cudaStreamCaptureStatusInvalidated) capture.state = StreamCapture::State::invalidated;
    if (status == cudaStreamCaptureStatusActive) capture = {StreamCapture::State::active, graph};
    return result;
  }

  void begin_range(const char* name) noexcept override { nvtxRangePushA(name); }
  void end_range() noexcept override { nvtxRangePop(); }
};

}  // namespace

std::unique_ptr<CudaRuntime> make_toolkit_runtime() {
  int devices = 0;
  const CudaResult asked = result_of(cudaGetDeviceCount(&devices));
  if (!asked.ok() || devices == 0) {
    throw Error(ErrorCode::unsupported, "tensors on a CUDA device cannot be recorded on this machine: " +
                                            (asked.ok() ? std::string("it has no CUDA device") : asked.text));
  }
  return std::make_unique<ToolkitRuntime>();
}

}  // namespace evictsim::traces::capture

#include "traces/capture/cuda/resource.h"

#include "traces/error.h"

namespace evictsim::traces::capture {

void require(const CudaResult& result, const std::string& doing) {
  switch (result.kind) {
    case CudaResult::Kind::success:
      return;
    case CudaResult::Kind::out_of_memory:
      throw Error(ErrorCode::out_of_memory, "out of memory while " + doing + " (" + result.text + ")");
    case CudaResult::Kind::capture_conflict:
      throw Error(ErrorCode::unsupported, "not possible while a stream is being captured into a CUDA graph: " + doing +
                                              " (" + result.text + ")");
    case CudaResult::Kind::no_device:
    case CudaResult::Kind::context_lost:
    case CudaResult::Kind::failure:
      break;
  }
  throw Error(ErrorCode::device_failure, "CUDA failed while " + doing + ": " + result.text);
}

CudaResource& CudaResource::operator=(CudaResource&& other) noexcept {
  if (this == &other) return *this;
  reset();
  runtime_ = std::exchange(other.runtime_, nullptr);
  handle_ = std::exchange(other.handle_, nullptr);
  destroy_ = std::exchange(other.destroy_, nullptr);
  return *this;
}

CudaResource CudaResource::device_memory(CudaRuntime& runtime, std::size_t bytes) {
  void* memory = nullptr;
  require(runtime.allocate(bytes, memory), "allocating " + std::to_string(bytes) + " bytes of device memory");
  return {runtime, memory, &CudaRuntime::release};
}

CudaResource CudaResource::pinned_memory(CudaRuntime& runtime, std::size_t bytes) {
  void* memory = nullptr;
  require(runtime.allocate_host(bytes, memory), "pinning " + std::to_string(bytes) + " bytes of host memory");
  return {runtime, memory, &CudaRuntime::release_host};
}

CudaResource CudaResource::stream(CudaRuntime& runtime) {
  CudaStream stream = nullptr;
  require(runtime.create_stream(stream), "creating a stream");
  return {runtime, stream, &CudaRuntime::destroy_stream};
}

CudaResource CudaResource::event(CudaRuntime& runtime) {
  CudaEvent event = nullptr;
  require(runtime.create_event(event), "creating an event");
  return {runtime, event, &CudaRuntime::destroy_event};
}

void CudaResource::reset() noexcept {
  // What a lost context does not take back is gone with the process: nothing can be done about an error here.
  if (runtime_ != nullptr) static_cast<void>((runtime_->*destroy_)(handle_));
  runtime_ = nullptr;
}

CurrentDevice::CurrentDevice(CudaRuntime& runtime, int device) : runtime_(runtime), device_(device) {
  require(runtime_.exchange_device(device_, previous_), "selecting device " + std::to_string(device));
}

CurrentDevice::~CurrentDevice() {
  int ours = 0;
  if (previous_ != device_) static_cast<void>(runtime_.exchange_device(previous_, ours));
}

RelaxedCapture::RelaxedCapture(CudaRuntime& runtime) : runtime_(runtime) {
  require(runtime_.exchange_capture_mode(mode_), "keeping this thread out of captures");
}

RelaxedCapture::~RelaxedCapture() { static_cast<void>(runtime_.exchange_capture_mode(mode_)); }

}  // namespace evictsim::traces::capture

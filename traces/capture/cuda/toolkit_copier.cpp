// The device path of a build with the CUDA Toolkit.
#include <mutex>

#include "traces/capture/cuda/copy_engine.h"
#include "traces/capture/cuda/toolkit_runtime.h"

namespace evictsim::traces::capture {
namespace {

/// Opens the engine on the device of the first tensor: nothing says before which one it will be.
class ToolkitCopier final : public DeviceCopier {
 public:
  ToolkitCopier(RowReceiver& receiver, const DeviceOptions& options)
      : runtime_(make_toolkit_runtime()), receiver_(receiver), options_(options) {}

  void copy(const DLTensor& tensor, const RowSelection& selection, void* stream) override {
    engine_on(tensor.device.device_id).copy(tensor, selection, stream);
  }
  void drain() override {
    if (CopyEngine* const engine = opened()) engine->drain();
  }
  void forget(std::uint64_t request) noexcept override {
    if (CopyEngine* const engine = opened()) engine->forget(request);
  }
  std::uint64_t graph_of(void* stream) override {
    StreamCapture capture;
    require(runtime_->capture_of(stream, capture), "asking whether the stream is being captured");
    return capture.state == StreamCapture::State::none ? 0 : capture.graph;
  }
  void begin_replay(std::uint64_t graph, const ReplayRows& rows_of, void* stream) override {
    opened_engine().begin_replay(graph, rows_of, stream);
  }
  void end_replay() override { opened_engine().end_replay(); }

 private:
  CopyEngine& engine_on(int device) {
    const std::scoped_lock lock(mutex_);
    if (!engine_) {
      CopyEngineOptions options;
      static_cast<DeviceOptions&>(options) = options_;
      options.device = device;
      engine_ = std::make_unique<CopyEngine>(runtime_, receiver_, options);
    }
    return *engine_;
  }
  CopyEngine* opened() {
    const std::scoped_lock lock(mutex_);
    return engine_.get();
  }
  CopyEngine& opened_engine() {
    CopyEngine* const engine = opened();
    if (engine == nullptr) throw Error(ErrorCode::invalid_argument, "no tensor was captured into a CUDA graph");
    return *engine;
  }

  std::shared_ptr<CudaRuntime> runtime_;
  RowReceiver& receiver_;
  DeviceOptions options_;
  std::mutex mutex_;
  std::unique_ptr<CopyEngine> engine_;
};

}  // namespace

std::unique_ptr<DeviceCopier> make_device_copier(RowReceiver& receiver, const DeviceOptions& options) {
  return std::make_unique<ToolkitCopier>(receiver, options);
}

}  // namespace evictsim::traces::capture

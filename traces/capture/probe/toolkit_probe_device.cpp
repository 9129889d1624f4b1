#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <utility>

#include "traces/capture/cuda/toolkit_runtime.h"
#include "traces/capture/probe/cuda_probe_device.h"
#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

CudaResult result_of(cudaError_t status) {
  if (status == cudaSuccess) return {};
  static_cast<void>(cudaGetLastError());
  return {status == cudaErrorMemoryAllocation ? CudaResult::Kind::out_of_memory : CudaResult::Kind::failure,
          std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status)};
}

std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

/// The first call that fails decides.
class ToolkitProbeCalls final : public ProbeCalls {
 public:
  ToolkitProbeCalls() = default;
  ToolkitProbeCalls(const ToolkitProbeCalls&) = delete;
  ToolkitProbeCalls& operator=(const ToolkitProbeCalls&) = delete;
  ~ToolkitProbeCalls() override {
    if (start_ != nullptr) static_cast<void>(cudaEventDestroy(start_));
    if (stop_ != nullptr) static_cast<void>(cudaEventDestroy(stop_));
  }

  CudaResult facts(int device, DeviceFacts& facts) override {
    cudaDeviceProp properties{};
    int driver = 0, runtime = 0;
    std::size_t free = 0, total = 0;
    cudaError_t status = cudaGetDeviceProperties(&properties, device);
    if (status == cudaSuccess) status = cudaDriverGetVersion(&driver);
    if (status == cudaSuccess) status = cudaRuntimeGetVersion(&runtime);
    if (status == cudaSuccess) status = cudaMemGetInfo(&free, &total);
    if (status != cudaSuccess) return result_of(status);
    facts.name = properties.name;
    facts.compute_capability = fmt::format("{}.{}", properties.major, properties.minor);
    facts.software = fmt::format("CUDA driver {}, runtime {}", version_text(driver), version_text(runtime));
    facts.multiprocessors = properties.multiProcessorCount;
    facts.total_bytes = static_cast<std::int64_t>(total);
    facts.free_bytes = static_cast<std::int64_t>(free);
    facts.l2_bytes = properties.l2CacheSize;
    return {};
  }

  CudaResult peers(int device, std::vector<int>& peers) override {
    int devices = 0;
    cudaError_t status = cudaGetDeviceCount(&devices);
    for (int peer = 0; status == cudaSuccess && peer < devices; ++peer) {
      if (peer == device) continue;
      int reachable = 0;
      status = cudaDeviceCanAccessPeer(&reachable, device, peer);
      if (status != cudaSuccess || reachable == 0) continue;
      status = cudaDeviceEnablePeerAccess(peer, 0);
      if (status == cudaErrorPeerAccessAlreadyEnabled) {
        static_cast<void>(cudaGetLastError());
        status = cudaSuccess;
      }
      if (status == cudaSuccess) peers.push_back(peer);
    }
    return result_of(status);
  }

  CudaResult copy_between(void* target, const void* source, std::size_t bytes, CudaStream stream) override {
    return result_of(
        cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(stream)));
  }

  CudaResult start_clock(CudaStream stream) override {
    cudaError_t status = start_ == nullptr ? cudaEventCreate(&start_) : cudaSuccess;
    if (status == cudaSuccess && stop_ == nullptr) status = cudaEventCreate(&stop_);
    if (status == cudaSuccess) status = cudaEventRecord(start_, static_cast<cudaStream_t>(stream));
    return result_of(status);
  }

  CudaResult stop_clock(CudaStream stream, double& seconds) override {
    float milliseconds = 0;
    cudaError_t status = cudaEventRecord(stop_, static_cast<cudaStream_t>(stream));
    if (status == cudaSuccess) status = cudaEventSynchronize(stop_);
    if (status == cudaSuccess) status = cudaEventElapsedTime(&milliseconds, start_, stop_);
    seconds = static_cast<double>(milliseconds) * 1e-3;
    return result_of(status);
  }

 private:
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
};

}  // namespace

std::unique_ptr<ProbeDevice> open_probe_device(int device) {
  int devices = 0;
  const CudaResult asked = result_of(cudaGetDeviceCount(&devices));
  if (!asked.ok() || devices == 0) {
    throw Error(ErrorCode::unsupported,
                "there is no CUDA device to probe on this machine" + (asked.ok() ? "" : " (" + asked.text + ")"));
  }
  if (device < 0 || device >= devices) {
    throw Error(ErrorCode::invalid_argument, fmt::format("devices are numbered from 0 to {}", devices - 1),
                {.file = {}, .dataset = {}, .parameter = "device", .value = std::to_string(device)});
  }
  return make_cuda_probe_device(make_toolkit_runtime(), std::make_unique<ToolkitProbeCalls>(), device);
}

}  // namespace evictsim::traces::capture

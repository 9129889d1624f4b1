#pragma once
/// \file
/// Results of runtime calls as errors, and owners of what the runtime hands out.

#include <cstddef>
#include <string>
#include <utility>

#include "traces/capture/cuda/runtime.h"

namespace evictsim::traces::capture {

/// Throws Error (out_of_memory, unsupported for conflicts with a capture, else device_failure) unless `result` is ok;
/// `doing` says what was tried.
void require(const CudaResult& result, const std::string& doing);

/// One allocation, stream or event; given back when it goes.
class CudaResource {
 public:
  CudaResource() = default;
  CudaResource(CudaResource&& other) noexcept { *this = std::move(other); }
  CudaResource& operator=(CudaResource&& other) noexcept;
  CudaResource(const CudaResource&) = delete;
  CudaResource& operator=(const CudaResource&) = delete;
  ~CudaResource() { reset(); }

  static CudaResource device_memory(CudaRuntime& runtime, std::size_t bytes);
  static CudaResource pinned_memory(CudaRuntime& runtime, std::size_t bytes);
  static CudaResource stream(CudaRuntime& runtime);
  static CudaResource event(CudaRuntime& runtime);

  [[nodiscard]] void* get() const noexcept { return handle_; }
  [[nodiscard]] unsigned char* bytes() const noexcept { return static_cast<unsigned char*>(handle_); }
  void reset() noexcept;

 private:
  using Destroy = CudaResult (CudaRuntime::*)(void*);
  CudaResource(CudaRuntime& runtime, void* handle, Destroy destroy)
      : runtime_(&runtime), handle_(handle), destroy_(destroy) {}

  CudaRuntime* runtime_ = nullptr;
  void* handle_ = nullptr;
  Destroy destroy_ = nullptr;
};

/// Makes one device current on this thread for a scope.
class CurrentDevice {
 public:
  CurrentDevice(CudaRuntime& runtime, int device);
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;
  ~CurrentDevice();

 private:
  CudaRuntime& runtime_;
  int device_;
  int previous_ = 0;
};

/// Keeps this thread's calls from breaking captures for a scope: it may allocate and wait while streams are captured.
class RelaxedCapture {
 public:
  explicit RelaxedCapture(CudaRuntime& runtime);
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;
  ~RelaxedCapture();

 private:
  CudaRuntime& runtime_;
  CaptureMode mode_ = CaptureMode::relaxed;  // after the exchange the one before
};

/// A named NVTX range for a scope.
class ProfiledRange {
 public:
  ProfiledRange(CudaRuntime& runtime, const char* name) : runtime_(runtime) { runtime_.begin_range(name); }
  ProfiledRange(const ProfiledRange&) = delete;
  ProfiledRange& operator=(const ProfiledRange&) = delete;
  ~ProfiledRange() { runtime_.end_range(); }

 private:
  CudaRuntime& runtime_;
};

}  // namespace evictsim::traces::capture

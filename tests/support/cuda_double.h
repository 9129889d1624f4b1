#pragma once
/// \file
/// A CUDA runtime that exists only in host memory. What is put on streams happens later, in any order that CUDA's rules
/// allow, chosen by a seed: operations of one stream in their order, a stream behind the events it waits for, copies
/// piece by piece. Host memory that a copy will write holds poison until it has been written.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "traces/capture/cuda/runtime.h"

namespace evictsim::tests {

/// Runs a kernel's body on the host, all of it.
void run_on_host(const traces::capture::KernelJob& job);

class CudaDouble final : public traces::capture::CudaRuntime {
 public:
  using Result = traces::capture::CudaResult;
  using Kind = Result::Kind;

  struct Behaviour {
    std::uint64_t seed = 0;
    int eagerness = 3;                          ///< operations that happen by themselves during a call, at most
    std::size_t pieces = 1;                     ///< of a copy to the host; more make copies slow
    std::optional<std::uint64_t> failing_call;  ///< this call, counted from 0, fails with `failure`
    Kind failure = Kind::failure;
    std::optional<std::uint64_t> fatal_operation;  ///< this operation on a stream loses the context when it happens
  };

  explicit CudaDouble(const Behaviour& behaviour) : behaviour_(behaviour), random_(behaviour.seed) {}
  ~CudaDouble() override;

  // What tests do in the role of the engine.
  traces::capture::CudaStream engine_stream();
  void* engine_memory(std::size_t bytes);
  /// Work of the engine on its stream, for example writing a tensor. May be captured into a graph.
  void enqueue(traces::capture::CudaStream stream, std::function<void()> work);
  /// Captures what is put on the stream; like cudaStreamCaptureModeGlobal. Returns the graph's number.
  std::uint64_t begin_capture(traces::capture::CudaStream stream);
  void end_capture(traces::capture::CudaStream stream);
  void invalidate_capture(traces::capture::CudaStream stream);
  void launch_graph(std::uint64_t graph, traces::capture::CudaStream stream);
  /// Everything that was put on any stream happens.
  void finish();

  // What tests ask.
  [[nodiscard]] std::uint64_t calls() const;
  [[nodiscard]] std::uint64_t operations() const;
  /// Allocations, streams and events that were created and not given back, and open ranges.
  [[nodiscard]] std::size_t leaks() const;
  /// Rules of CUDA that were broken: unknown handles, waits that would never end, calls that disturb a capture.
  [[nodiscard]] std::vector<std::string> breaches() const;

  Result exchange_device(int device, int& previous) override;
  Result exchange_capture_mode(traces::capture::CaptureMode& mode) override;
  Result allocate(std::size_t bytes, void*& memory) override;
  Result release(void* memory) override;
  Result allocate_host(std::size_t bytes, void*& memory) override;
  Result release_host(void* memory) override;
  Result create_stream(traces::capture::CudaStream& stream) override;
  Result destroy_stream(traces::capture::CudaStream stream) override;
  Result create_event(traces::capture::CudaEvent& event) override;
  Result destroy_event(traces::capture::CudaEvent event) override;
  Result record_event(traces::capture::CudaEvent event, traces::capture::CudaStream stream) override;
  Result wait_event(traces::capture::CudaStream stream, traces::capture::CudaEvent event) override;
  Result synchronize_event(traces::capture::CudaEvent event) override;
  Result synchronize_stream(traces::capture::CudaStream stream) override;
  Result synchronize_device() override;
  Result copy_to_host(void* host, const void* device, std::size_t bytes, traces::capture::CudaStream stream) override;
  Result copy_to_device(void* device, const void* host, std::size_t bytes, traces::capture::CudaStream stream) override;
  Result load_kernels() override;
  Result launch(const traces::capture::KernelJob& job, traces::capture::CudaStream stream) override;
  Result capture_of(traces::capture::CudaStream stream, traces::capture::StreamCapture& capture) override;
  void begin_range(const char* name) noexcept override;
  void end_range() noexcept override;

 private:
  /// One thing on a stream: `advance` does a part and says whether that was the last one.
  struct Operation {
    std::function<bool()> advance;
    std::optional<std::uint64_t> waits_for;  ///< a recording that must have happened
    std::optional<std::uint64_t> records;    ///< the recording that this is
  };
  struct Stream {
    std::deque<Operation> operations;
    traces::capture::StreamCapture capture;
    bool destroyed = false;
  };

  Result begin_call();
  Result submit(void* stream, Operation operation);
  bool step();
  [[nodiscard]] bool runnable(const Stream& stream) const;
  Result wait_until(std::unique_lock<std::mutex>& lock, const std::function<bool()>& done);
  Result disturbs_capture();
  Stream* find(void* stream);
  void breach(const std::string& text);
  static Result lost() { return {Kind::context_lost, "the context was lost"}; }
  void* new_memory(std::size_t bytes, std::map<void*, std::unique_ptr<unsigned char[]>>& owner);

  mutable std::mutex mutex_;
  Behaviour behaviour_;
  std::mt19937_64 random_;
  std::map<void*, std::unique_ptr<Stream>> streams_;
  std::map<void*, std::uint64_t> events_;  // handle to the latest recording, 0: none
  std::set<std::uint64_t> open_recordings_;
  std::map<void*, std::unique_ptr<unsigned char[]>> device_, pinned_, engine_;
  std::set<void*> engine_streams_;
  std::map<std::uint64_t, std::vector<Operation>> graphs_;
  std::map<std::thread::id, traces::capture::CaptureMode> modes_;
  std::map<std::thread::id, int> current_device_;
  std::vector<std::string> breaches_;
  std::uint64_t calls_ = 0, operations_ = 0, recordings_ = 0, next_handle_ = 0x1000, captures_ = 0;
  int open_ranges_ = 0;
  bool lost_ = false;
};

}  // namespace evictsim::tests

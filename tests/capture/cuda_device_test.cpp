// Does a real device compute and copy what the host and the double of the runtime do?
#include <cuda_runtime_api.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tests/support/cuda_kernel_checks.h"
#include "traces/capture/cuda/copy_engine.h"
#include "traces/capture/cuda/resource.h"
#include "traces/capture/cuda/toolkit_runtime.h"
#include "traces/error.h"
#include "traces/half.h"

using namespace evictsim;
using namespace evictsim::traces::capture;

namespace {

/// Without a device there is nothing to test: CTest takes this status for "skipped".
const bool has_device = [] {
  try {
    make_toolkit_runtime();
    return true;
  } catch (const Error& error) {
    std::printf("skipped: %s\n", error.what());
    std::fflush(stdout);
    std::_Exit(77);
  }
}();

constexpr std::int64_t rows = 64, heads = 4, width = 32;

float value_at(std::uint64_t key, std::int64_t place) {
  return static_cast<float>((key * 131 + static_cast<std::uint64_t>(place) * 7) % 251);
}

/// Compares what comes with value_at of step and layer.
class CheckingReceiver final : public RowReceiver {
 public:
  void receive(const RowBatch& batch) override {
    const std::scoped_lock lock(mutex_);
    ++received_;
    const auto* numbers = reinterpret_cast<const std::uint16_t*>(batch.bytes.data());
    for (std::size_t i = 0; i < batch.rows->source.size(); ++i) {
      for (std::int64_t place = 0; place < heads * width; ++place) {
        const float value = value_at(batch.rows->step * 8 + static_cast<std::uint64_t>(batch.layer),
                                     batch.rows->source[i] * heads * width + place);
        wrong_ +=
            numbers[static_cast<std::int64_t>(i) * heads * width + place] != traces::float_to_half(value) ? 1U : 0U;
      }
    }
  }
  void dropped(const RowSelection&) override {
    const std::scoped_lock lock(mutex_);
    ++dropped_;
  }
  void failed(const Error& error) override {
    const std::scoped_lock lock(mutex_);
    failure_ = error.what();
  }

  std::mutex mutex_;
  std::size_t received_ = 0, dropped_ = 0, wrong_ = 0;
  std::string failure_;
};

struct DeviceEngine {
  std::shared_ptr<CudaRuntime> runtime{make_toolkit_runtime()};
  CudaResource stream = CudaResource::stream(*runtime);
  CudaResource memory = CudaResource::device_memory(*runtime, rows* heads* width * sizeof(float));
  CudaResource pinned = CudaResource::pinned_memory(*runtime, rows* heads* width * sizeof(float));
  std::int64_t shape[3] = {rows, heads, width};

  [[nodiscard]] DLTensor tensor() {
    DLTensor result{};
    result.data = memory.get();
    result.device = {kDLCUDA, 0};
    result.dtype = {kDLFloat, 32, 1};
    result.ndim = 3;
    result.shape = shape;
    return result;
  }
  void write(std::uint64_t key) {
    require(runtime->synchronize_stream(stream.get()), "waiting");
    auto* const values = static_cast<float*>(pinned.get());
    for (std::int64_t place = 0; place < rows * heads * width; ++place) values[place] = value_at(key, place);
    enqueue_write();
  }
  void enqueue_write() {
    require(runtime->copy_to_device(memory.get(), pinned.get(), rows * heads * width * sizeof(float), stream.get()),
            "writing a tensor");
  }
};

std::shared_ptr<RowMap> row_map(std::uint64_t step) {
  auto map = std::make_shared<RowMap>();
  map->step = step;
  for (std::int64_t row = 0; row < rows; ++row) {
    if (step % 3 == 0 || (row * row + static_cast<std::int64_t>(step)) % 3 == 0) map->source.push_back(row);
  }
  map->origin.resize(map->source.size());
  return map;
}

}  // namespace

TEST_CASE("device: rows are gathered from any layout and cast") { tests::check_gather(*make_toolkit_runtime()); }
TEST_CASE("device: every pattern is cast to the nearest, ties to even") { tests::check_casts(*make_toolkit_runtime()); }
TEST_CASE("device: logits become entropies and log-probabilities") { tests::check_logits(*make_toolkit_runtime()); }
TEST_CASE("device: rows become norms, cosines and distances") { tests::check_comparison(*make_toolkit_runtime()); }

TEST_CASE("device: rows arrive once, whole and in order, waiting or dropping") {
  for (const bool drop : {false, true}) {
    DeviceEngine device;
    CheckingReceiver receiver;
    CopyEngineOptions options;
    options.ring_bytes = 128 << 10;
    options.pending = 8;
    options.drop = drop;
    std::size_t given = 0;
    {
      CopyEngine engine(device.runtime, receiver, options);
      for (std::uint64_t step = 0; step < 200; ++step) {
        for (int layer = 0; layer < 3; ++layer, ++given) {
          device.write(step * 8 + static_cast<std::uint64_t>(layer));
          engine.copy(device.tensor(), {Role::key, layer, row_map(step), {}, Measure::rows}, device.stream.get());
        }
      }
    }
    CHECK(receiver.wrong_ == 0);
    CHECK(receiver.failure_.empty());
    CHECK(receiver.received_ + receiver.dropped_ == given);
    CHECK((drop || receiver.dropped_ == 0));
  }
}

TEST_CASE("device: rows written inside a CUDA graph arrive with the step of their replay") {
  DeviceEngine device;
  CheckingReceiver receiver;
  CopyEngineOptions options;
  options.drop = true;
  options.ring_bytes = 128 << 10;
  options.graph_ring_bytes = 256 << 10;
  auto* const stream = static_cast<cudaStream_t>(device.stream.get());
  CopyEngine engine(device.runtime, receiver, options);
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  const std::uint64_t number = engine.graph_of(stream);
  device.enqueue_write();
  engine.copy(device.tensor(), {Role::key, 0, nullptr, {}, Measure::rows}, stream);
  cudaGraph_t graph = nullptr;
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  cudaGraphExec_t executable = nullptr;
  REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
  for (std::uint64_t step = 1; step <= 50; ++step) {
    require(device.runtime->synchronize_stream(stream), "waiting");
    auto* const values = static_cast<float*>(device.pinned.get());
    for (std::int64_t place = 0; place < rows * heads * width; ++place) values[place] = value_at(step * 8, place);
    engine.begin_replay(
        number, [&](const RowSelection&) { return row_map(step); }, stream);
    REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
    engine.end_replay();
  }
  engine.drain();
  CHECK(receiver.wrong_ == 0);
  CHECK(receiver.received_ + receiver.dropped_ == 50);
  CHECK(receiver.received_ > 0);
  CHECK(cudaGraphExecDestroy(executable) == cudaSuccess);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);
}

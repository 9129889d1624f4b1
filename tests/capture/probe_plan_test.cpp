// Does a probe measure what its plan says and describe the device by what it measured?
#include <algorithm>
#include <catch2/catch.hpp>
#include <functional>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "models/gpu.h"
#include "tests/support/cuda_double.h"
#include "traces/capture/probe/cuda_probe_device.h"
#include "traces/capture/probe/probe_plan.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::traces::capture;

namespace {

/// A device whose times follow a law, with a slow start, noise of 1 % and one interruption in every series.
class LawfulDevice final : public ProbeDevice {
 public:
  DeviceFacts facts() override { return facts_; }
  std::vector<int> peers() override { return {1, 2}; }
  std::vector<double> copy(Direction direction, HostMemory memory, std::size_t bytes, int repeats) override {
    largest_ = std::max(largest_, static_cast<std::int64_t>(bytes));
    const double rate = (direction == Direction::host_to_device ? 50e9 : 40e9) / (memory == HostMemory::pinned ? 1 : 5);
    return series(9e-6 + static_cast<double>(bytes) / rate, repeats);
  }
  std::vector<double> copy_to_peer(int peer, std::size_t bytes, int repeats) override {
    return series(12e-6 + static_cast<double>(bytes) / (peer == 1 ? 300e9 : 25e9), repeats);
  }
  std::vector<double> read_memory(std::size_t bytes, int repeats) override {
    CHECK(static_cast<std::int64_t>(bytes) >= 4 * facts_.l2_bytes);
    return series(5e-6 + static_cast<double>(bytes) / 3e12, repeats);
  }
  std::vector<double> attend(const AttentionCase& step, int repeats) override {
    page_sizes_.insert(step.page_size);
    ++attended_;
    return series(6e-6 + 0.25e-9 * static_cast<double>(step.entries()) + 2e-9 * static_cast<double>(step.pages()) +
                      0.5e-9 * static_cast<double>(step.longest()),
                  repeats);
  }

  DeviceFacts facts_{"NVIDIA H100 80GB HBM3", "9.0", "CUDA 13.0", 132, 85'000'000'000, 80'000'000'000, 50 << 20};
  std::set<int> page_sizes_;
  int attended_ = 0;
  std::int64_t largest_ = 0;

 private:
  static std::vector<double> series(double seconds, int repeats) {
    std::vector<double> times;
    for (int i = 0; i < repeats; ++i) times.push_back(seconds * (1 + 0.01 * (i % 3 - 1)));
    times.front() *= 40;
    times.back() *= 7;
    return times;
  }
};

void no_progress(const std::string&) {}

/// The calls of the probe alone over the double: a clock that counts starts, and one peer.
class DoubleCalls final : public ProbeCalls {
 public:
  explicit DoubleCalls(tests::CudaDouble& runtime) : runtime_(runtime) {}
  CudaResult facts(int, DeviceFacts& facts) override {
    facts = {"Double", "1.0", "no CUDA", 2, 1 << 30, 1 << 28, 1 << 12};
    return {};
  }
  CudaResult peers(int, std::vector<int>& peers) override {
    peers = {1};
    return {};
  }
  CudaResult copy_between(void* target, const void* source, std::size_t bytes, CudaStream stream) override {
    return runtime_.copy_to_host(target, source, bytes, stream);
  }
  CudaResult start_clock(CudaStream) override {
    return failing ? CudaResult{CudaResult::Kind::failure, "made up"} : CudaResult{};
  }
  CudaResult stop_clock(CudaStream stream, double& seconds) override {
    seconds = 1e-6;
    return runtime_.synchronize_stream(stream);
  }
  bool failing = false;

 private:
  tests::CudaDouble& runtime_;
};

/// Cases that a double runs in a moment.
ProbePlan tiny_plan() {
  ProbePlan plan = quick_plan();
  plan.warm_up = 1;
  plan.repeats = 2;
  plan.copy_bytes = {4, 4096};
  plan.read_times_l2 = {4};
  plan.width = 32;
  plan.kv_heads = 2;
  plan.sequences = {1};
  plan.mean_entries = {40};
  plan.page_sizes = {16, 32};
  return plan;
}

}  // namespace

TEST_CASE("a probe finds the constants of the device") {
  LawfulDevice device;
  models::Gpu base;
  base.name = "h100-80gb-sxm";
  base.memory_bytes = 85'899'345'920;
  base.flops_per_second = {{"bf16", 989e12}};
  std::vector<std::string> told;
  const ProbePlan plan;
  const models::Gpu gpu =
      probe(device, plan, base, "this test", [&](const std::string& next) { told.push_back(next); });
  CHECK(gpu.measured);
  CHECK(gpu.name == "nvidia-h100-80gb-hbm3");
  CHECK(gpu.memory_bytes == base.memory_bytes);
  CHECK(gpu.visible_bytes == 85'000'000'000);
  CHECK(gpu.flops_per_second == base.flops_per_second);
  REQUIRE(gpu.sources.size() == 2);
  CHECK_THAT(gpu.sources[0], Catch::Contains("this test") && Catch::Contains("CUDA 13.0"));
  CHECK_THAT(gpu.sources[1], Catch::Contains("not measured") && Catch::Contains("h100-80gb-sxm"));
  CHECK(gpu.memory_bytes_per_second == Approx(3e12).epsilon(0.001));
  const auto is = [](const std::optional<models::TransferRate>& rate, double latency, double bandwidth) {
    REQUIRE(rate);
    CHECK(rate->latency_seconds.value() == Approx(latency).epsilon(0.001));
    CHECK(rate->bytes_per_second == Approx(bandwidth).epsilon(0.001));
  };
  is(gpu.host_to_device, 9e-6, 50e9);
  is(gpu.device_to_host, 9e-6, 40e9);
  is(gpu.host_to_device_pageable, 9e-6, 10e9);
  is(gpu.device_to_host_pageable, 9e-6, 8e9);
  is(gpu.peer, 12e-6, 25e9);  // the slower one
  REQUIRE(gpu.decode_attention);
  CHECK(gpu.decode_attention->element == "f16");
  CHECK(gpu.decode_attention->launch_seconds == Approx(6e-6).epsilon(0.001));
  CHECK(gpu.decode_attention->seconds_per_entry == Approx(0.25e-9).epsilon(0.001));
  CHECK(gpu.decode_attention->seconds_per_page == Approx(2e-9).epsilon(0.001));
  CHECK(gpu.decode_attention->seconds_per_longest_entry == Approx(0.5e-9).epsilon(0.001));
  CHECK(device.page_sizes_ == std::set<int>{16, 32, 64, 128, 256});
  for (const models::Measurement& point : gpu.measurements) {
    CHECK(point.samples == 30);
    CHECK(point.outliers == 1);
  }
  CHECK(gpu.measurements.size() == 4 + 6 * 6 + static_cast<std::size_t>(device.attended_));
  CHECK(told.size() == 8);

  // What it writes is what models reads.
  const std::string file = std::string(EVICTSIM_TEST_SCRATCH) + "/probed.json";
  models::write_gpu(file, gpu);
  CHECK(models::read_gpu(file).measurements.size() == gpu.measurements.size());
}

TEST_CASE("cases that do not fit are left out") {
  LawfulDevice device;
  device.facts_.free_bytes = std::int64_t{1} << 30;
  const models::Gpu gpu = probe(device, {}, std::nullopt, "this test", no_progress);
  CHECK(device.largest_ == 256 << 20);
  CHECK(gpu.memory_bytes == device.facts_.total_bytes);
  CHECK(gpu.flops_per_second.empty());
  CHECK(gpu.decode_attention);
  const double bytes_per_entry = 2 * 128 * 2;
  for (const models::Measurement& point : gpu.measurements) {
    if (point.quantity != "decode_attention") continue;
    CHECK(point.conditions.at("pages") * point.conditions.at("page_size") * bytes_per_entry <= 512.0 * (1 << 20));
  }
  device.facts_.free_bytes = 100 << 20;
  CHECK_THROWS_WITH(probe(device, {}, std::nullopt, "this test", no_progress),
                    Catch::Contains("device memory are free"));
}

TEST_CASE("ragged lengths keep their sum and their ratio") {
  for (const std::size_t heads : {2U, 8U, 64U, 255U, 256U}) {
    for (const double raggedness : {1.0, 2.0, 8.0}) {
      CAPTURE(heads, raggedness);
      const auto lengths = ragged_lengths(heads, 4096, raggedness);
      REQUIRE(lengths.size() == heads);
      const auto [least, most] = std::minmax_element(lengths.begin(), lengths.end());
      CHECK(static_cast<double>(*most) / *least == Approx(raggedness).epsilon(0.01));
      CHECK(std::accumulate(lengths.begin(), lengths.end(), 0.0) ==
            Approx(4096.0 * static_cast<double>(heads)).epsilon(0.001));
      if (raggedness > 1) CHECK(std::set<std::int32_t>(lengths.begin(), lengths.end()).size() > heads / 2);
    }
  }
  CHECK(ragged_lengths(1, 100, 8) == std::vector<std::int32_t>{100});
  CHECK(ragged_lengths(3, 1, 100).front() >= 1);
}

TEST_CASE("a case counts whole pages") {
  const AttentionCase step{ElementType::f16, 4, 128, 16, {1, 16, 17, 0}};
  CHECK(step.entries() == 34);
  CHECK(step.pages() == 4);
  CHECK(step.longest() == 17);
}

TEST_CASE("a probe of the double runs every kernel and copy and leaves nothing behind") {
  const auto runtime = std::make_shared<tests::CudaDouble>(tests::CudaDouble::Behaviour{});
  {
    const auto device = make_cuda_probe_device(runtime, std::make_unique<DoubleCalls>(*runtime), 0);
    CHECK(device->copy(Direction::device_to_host, HostMemory::pageable, 100, 3).size() == 3);
    CHECK(device->attend({ElementType::bf16, 4, 32, 16, {40, 7}}, 2) == std::vector<double>{1e-6, 1e-6});
    // The double's time does not grow with the bytes, which is no bandwidth.
    CHECK_THROWS_WITH(probe(*device, tiny_plan(), std::nullopt, "this test", no_progress),
                      Catch::Contains("no bandwidth"));
  }
  CHECK(runtime->leaks() == 0);
  CHECK(runtime->breaches().empty());
}

TEST_CASE("a failing call ends the probe with its words") {
  const auto runtime = std::make_shared<tests::CudaDouble>(tests::CudaDouble::Behaviour{});
  {
    auto calls = std::make_unique<DoubleCalls>(*runtime);
    calls->failing = true;
    const auto device = make_cuda_probe_device(runtime, std::move(calls), 0);
    CHECK_THROWS_WITH(device->read_memory(4096, 1), Catch::Contains("made up"));
  }
  CHECK(runtime->leaks() == 0);
}

TEST_CASE("whatever call of the runtime fails, nothing is left behind") {
  // Number of calls, and whether the probe failed; failing to give something back is no reason to.
  const auto attempt = [](std::optional<std::uint64_t> failing_call) {
    tests::CudaDouble::Behaviour behaviour;
    behaviour.failing_call = failing_call;
    behaviour.failure = CudaResult::Kind::out_of_memory;
    const auto runtime = std::make_shared<tests::CudaDouble>(behaviour);
    bool failed = false;
    try {
      const auto device = make_cuda_probe_device(runtime, std::make_unique<DoubleCalls>(*runtime), 0);
      static_cast<void>(device->attend({ElementType::f16, 2, 16, 16, {20}}, 1));
      static_cast<void>(device->copy_to_peer(1, 64, 1));
    } catch (const Error& error) {
      failed = true;
      CHECK(error.code() == ErrorCode::out_of_memory);
    }
    CHECK(runtime->leaks() == 0);
    return std::pair(runtime->calls(), failed);
  };
  const auto [calls, failed] = attempt(std::nullopt);
  REQUIRE_FALSE(failed);
  std::uint64_t failures = 0;
  for (std::uint64_t call = 0; call < calls; ++call) failures += attempt(call).second ? 1U : 0U;
  CHECK(failures > calls / 2);
}

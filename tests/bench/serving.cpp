// How many changes of batches, and how much simulated time, does a serving simulation get through per second?
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "tests/support/serving_double.h"

namespace {

using namespace evictsim;

/// One hour like the Azure conversation trace of 2023: 19,366 requests with means of 1155 and 211 tokens.
std::vector<traces::WorkloadRequest> hour_of_conversations() {
  std::mt19937_64 random(1);
  std::exponential_distribution<double> gap(19'366 / 3600.0);
  const auto lognormal = [&](double mean, double sigma) {
    std::lognormal_distribution<double> tokens(std::log(mean) - sigma * sigma / 2, sigma);
    return std::clamp<std::int64_t>(std::llround(tokens(random)), 1, 16'000);
  };
  std::vector<traces::WorkloadRequest> requests;
  double arrival = 0;
  for (int i = 0; i < 19'366; ++i) {
    arrival += gap(random);
    const std::int64_t prompt = lognormal(1155, 1), output = lognormal(211, 0.8);
    requests.push_back(tests::request(arrival, prompt, output));
  }
  return requests;
}

/// Roughly an 8B model in bf16 on one H100: 6 ms to read the weights, 44 ns an entry, 30 us a token of a prompt.
sim::ServingOptions one_gpu(std::int64_t blocks) {
  auto cost = std::make_shared<tests::LinearCost>();
  cost->step = 6 * tests::femtoseconds_per_millisecond;
  cost->per_entry = 44'000'000;
  cost->per_prefill_token = 30'000'000'000;
  sim::ServingOptions options;
  options.replicas.step_cost = cost;
  options.replicas.blocks = blocks;
  return options;
}

/// Arguments: KV blocks of 16 tokens (2,000 are too few: queues and preemptions), step by step or not.
void serving(benchmark::State& state) {
  const auto requests = hour_of_conversations();
  sim::ServingOptions options = one_gpu(state.range(0));
  options.step_by_step = state.range(1) != 0;
  double seconds = 0;
  std::int64_t changes = 0, steps = 0;
  for (auto _ : state) {
    const sim::ServingResult result = tests::serve(options, requests);
    seconds += sim::to_seconds(result.end);
    changes += result.changes;
    steps += result.replicas.front().steps;
  }
  state.counters["simulated_s/s"] = benchmark::Counter(seconds, benchmark::Counter::kIsRate);
  state.counters["changes/s"] = benchmark::Counter(static_cast<double>(changes), benchmark::Counter::kIsRate);
  state.counters["steps/s"] = benchmark::Counter(static_cast<double>(steps), benchmark::Counter::kIsRate);
}
BENCHMARK(serving)
    ->ArgNames({"blocks", "step_by_step"})
    ->ArgsProduct({{2'000, 27'000}, {0, 1}})
    ->Unit(benchmark::kMillisecond);

}  // namespace

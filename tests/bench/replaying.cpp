// What does a whole replay cost per (policy, budget) point, in CPU seconds and in memory?
#include <benchmark/benchmark.h>

#include <ctime>
#include <fstream>
#include <string>

#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sim/replay/replay.h"
#include "tests/bench/random_trace.h"

namespace {

using namespace evictsim;

/// Counts what arrives; costs nothing.
class Sink final : public sim::ReplayObserver {
 public:
  void begin_sequence(const sim::SequenceStart& start) override { benchmark::DoNotOptimize(start.length); }
  void skipped(std::size_t, const std::string& why) override { throw std::runtime_error(why); }
  void failed(std::size_t, const std::string& why) override { throw std::runtime_error(why); }
  void prompt_cut(sim::PromptCut&& cut) override { benchmark::DoNotOptimize(cut.kept.data()); }
  void full_block(const sim::FullBlock& block) override { benchmark::DoNotOptimize(block.layer); }
  void layer_block(const sim::LayerBlock& block) override {
    error += block.error_squared.empty() ? 0 : block.error_squared[0];
  }
  void end_sequence() override {}
  void progress(double) override {}
  double error = 0;
};

struct Cost {
  double cpu_seconds = 0;
  double peak_bytes = 0;
  double points = 0;
};

double peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) * 1024;
  }
  return 0;
}

Cost replay_here(const std::filesystem::path& path, const std::string& policies, int budgets) {
  std::vector<policies::Budget> list;
  for (int i = 1; i <= budgets; ++i) list.push_back(policies::Budget::parse(std::to_string(0.9 * i / budgets)));
  const auto plan = sim::ReplayPlan::of(policies::parse_policies(policies), list);
  std::vector<traces::Reader> readers;
  readers.emplace_back(path);
  Sink sink;
  const std::atomic<bool> stop = false;
  const std::clock_t start = std::clock();
  sim::replay(readers, plan, {.threads = 1}, sink, stop);
  return {static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, peak_resident_bytes(),
          static_cast<double>(plan.points.size())};
}

/// In a process of its own, so that the peak memory is this replay's.
Cost replay_cost(const std::filesystem::path& path, const std::string& policies, int budgets) {
  int channel[2];
  if (pipe(channel) != 0) throw std::runtime_error("pipe failed");
  malloc_trim(0);  // or the child starts with what benchmarks before it have freed, and copies pages of it
  const pid_t child = fork();
  if (child == 0) {
    Cost cost;
    try {
      cost = replay_here(path, policies, budgets);
    } catch (const std::exception&) {
      cost.points = -1;
    }
    const bool written = write(channel[1], &cost, sizeof cost) == static_cast<ssize_t>(sizeof cost);
    _exit(written ? 0 : 1);
  }
  Cost cost;
  if (read(channel[0], &cost, sizeof cost) != static_cast<ssize_t>(sizeof cost) || cost.points < 0) {
    throw std::runtime_error("the replay failed: " + policies);
  }
  close(channel[0]);
  close(channel[1]);
  waitpid(child, nullptr, 0);
  return cost;
}

/// Those of the first version; newer ones need more of a trace or do other work.
const char* const fifteen =
    "full,random,streaming_llm,window,h2o,observed_attention,tova,snapkv,knorm,keydiff,lagkv,expected_attention,"
    "adakv(snapkv),pyramidkv,oracle_mass";
const char* const rank_once = "snapkv,knorm,keydiff,pyramidkv,adakv";

/// A sweep; SmolLM2-135M's shape when `tokens` is 0, else two layers of an 8B model.
void sweep(benchmark::State& state, const std::string& policies, const bench::TraceShape& shape, int budgets) {
  const std::filesystem::path path = bench::write_random_trace(shape);
  Cost cost;
  for (auto _ : state) cost = replay_cost(path, policies, budgets);
  state.counters["points"] = cost.points;
  state.counters["cpu_s"] = cost.cpu_seconds;
  state.counters["cpu_s/point"] = cost.cpu_seconds / cost.points;
  state.counters["peak_MiB"] = cost.peak_bytes / (1 << 20);
  std::filesystem::remove(path);
}

/// One policy at eight budgets beside the same at one.
void budgets_8_over_1(benchmark::State& state, const std::string& policy, const bench::TraceShape& shape) {
  const std::filesystem::path path = bench::write_random_trace(shape);
  double ratio = 0;
  for (auto _ : state) {
    // The fastest of three each: the machine is shared.
    double one = 1e9;
    double eight = 1e9;
    for (int i = 0; i < 3; ++i) {
      one = std::min(one, replay_cost(path, policy, 1).cpu_seconds);
      eight = std::min(eight, replay_cost(path, policy, 8).cpu_seconds);
    }
    ratio = eight / one;
  }
  state.counters["cost_ratio"] = ratio;
  std::filesystem::remove(path);
}

bench::TraceShape without_w_o(bench::TraceShape shape) {
  shape.with_w_o = false;
  return shape;
}

}  // namespace

BENCHMARK_CAPTURE(sweep, smollm2_15_policies_8_budgets, fifteen, bench::smollm2_shape(), 8)
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(sweep, smollm2_rank_once_8_budgets, rank_once, bench::smollm2_shape(), 8)
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(sweep, smollm2_one_policy_1_budget, "snapkv", bench::smollm2_shape(), 1)
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(sweep, layers_8b_T4096_8_budgets, rank_once, bench::shape_8b(4096, 2), 8)
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(sweep, layers_8b_T16384_8_budgets, rank_once, bench::shape_8b(16384, 2), 8)
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(sweep, layers_8b_T16384_1_policy_1_budget, "snapkv", bench::shape_8b(16384, 2), 1)
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(sweep, layers_8b_T16384_8_layers, "snapkv", bench::shape_8b(16384, 8), 1)
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(budgets_8_over_1, smollm2, "snapkv", bench::smollm2_shape())
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(budgets_8_over_1, layers_8b_T4096, "snapkv", bench::shape_8b(4096, 2))
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(budgets_8_over_1, layers_8b_T16384, "snapkv", bench::shape_8b(16384, 2))
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(budgets_8_over_1, layers_8b_T16384_without_w_o, "snapkv", without_w_o(bench::shape_8b(16384, 2)))
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);

// Is the memory of a replay bounded by the layers in flight, whatever the number of layers, policies and budgets?
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "tests/support/memory_trace_replay.h"

namespace {

using namespace evictsim;
using namespace evictsim::test;

/// Runs `work` in a process of its own and returns that process's largest resident memory in MiB.
double peak_of(const std::function<void()>& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      work();
    } catch (...) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  rusage usage{};
  REQUIRE(::wait4(child, &status, 0, &usage) == child);
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) == 0);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

/// k and v of a layer take 4 MiB.
void write(int layers, const std::string& path) {
  TraceShape shape{.layers = layers, .query_heads = 4, .kv_heads = 2, .head_dim = 64, .hidden_size = 64};
  shape.prompt_length = 4064;
  shape.length = 4096;
  for (std::int32_t row = 4048; row < 4096; ++row) shape.q_rows.push_back(row);
  write_trace(random_trace(shape), path);
}

double replay_peak(const std::string& path, const std::string& policies, const std::vector<std::string>& budgets) {
  return peak_of([&] {
    std::vector<traces::Reader> readers;
    readers.emplace_back(path);
    const auto plan = sim::ReplayPlan::of(policies::parse_policies(policies), budgets_of(budgets));
    replayed(readers, plan, {.threads = 2});
  });
}

}  // namespace

TEST_CASE("memory does not grow with the number of layers, policies or budgets") {
  const std::string few = "few-layers.h5";
  const std::string many = "many-layers.h5";
  // Written by processes of their own, so that no child below inherits their memory.
  peak_of([&] { write(4, few); });
  peak_of([&] { write(24, many); });
  const double base = replay_peak(few, "knorm", {"0.1"});
  const double layers = replay_peak(many, "knorm", {"0.1"});
  const double points =
      replay_peak(few, "knorm,keydiff,random,snapkv(window=16),adakv(snapkv(window=16)),lagkv,oracle_mass",
                  {"0.05", "0.1", "0.2", "0.3", "0.4", "0.5", "0.7", "0.9"});
  INFO("MiB: " << base << ", with 20 layers more " << layers << ", with 55 points more " << points);
  // 20 layers more are 80 MiB of k and v; two are in flight at a time. The collector keeps some kilobytes per layer.
  CHECK(layers < base + 20);
  // 55 points more, each with kept sets and some blocks of rows: below 0.5 MiB a point.
  CHECK(points < base + 30);
  CHECK(base > 10);
  std::filesystem::remove(few);
  std::filesystem::remove(many);
}

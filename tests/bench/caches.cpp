// How many references a second do cache replays reach, beside the look-ups that any replay needs?
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <random>
#include <vector>

#include "sim/memory/hit_ratio.h"
#include "sim/memory/stack_distance.h"
#include "tests/bench/limits.h"

namespace {

using namespace evictsim;
using sim::Object;

constexpr std::size_t references = 2'000'000;
constexpr std::size_t universe = 1'000'000;

/// Zipf's law with exponent 1.
const std::vector<std::uint64_t>& names() {
  static const std::vector<std::uint64_t> result = [] {
    std::vector<double> sums(universe);
    double sum = 0;
    for (std::size_t rank = 0; rank < universe; ++rank) sums[rank] = sum += 1.0 / static_cast<double>(rank + 1);
    std::mt19937_64 generator(1);
    std::uniform_real_distribution<double> uniform(0, sum);
    std::vector<std::uint64_t> drawn(references);
    for (std::uint64_t& name : drawn) {
      const auto rank = std::lower_bound(sums.begin(), sums.end() - 1, uniform(generator)) - sums.begin();
      name = static_cast<std::uint64_t>(rank) * 0x9e3779b97f4a7c15ULL;  // far apart, as hashes of blocks are
    }
    return drawn;
  }();
  return result;
}

/// The same as a file of oracleGeneral records.
const std::filesystem::path& file() {
  static const std::filesystem::path path = [] {
    std::filesystem::path made = std::filesystem::temp_directory_path() / "evictsim-bench.oracleGeneral";
    std::ofstream stream(made, std::ios::binary);
    const std::uint32_t time = 0;
    const std::uint32_t size = 1;
    const std::int64_t next = -1;
    for (const std::uint64_t name : names()) {
      stream.write(reinterpret_cast<const char*>(&time), sizeof time);
      stream.write(reinterpret_cast<const char*>(&name), sizeof name);
      stream.write(reinterpret_cast<const char*>(&size), sizeof size);
      stream.write(reinterpret_cast<const char*>(&next), sizeof next);
    }
    return made;
  }();
  return path;
}

const traces::BlockTrace& trace() {
  static const traces::BlockTrace result = traces::read_block_trace(file());
  return result;
}

/// Reading a word of a table of eight bytes an object at each reference: what a replay must at least do.
double lookups_per_second() {
  std::vector<std::uint64_t> table(trace().objects, 1);
  const double seconds = bench::fastest(5, [&] {
    std::uint64_t sum = 0;
    for (const Object object : trace().references) sum += ++table[object];
    benchmark::DoNotOptimize(sum);
  });
  return static_cast<double>(references) / seconds;
}

void cache_replay(benchmark::State& state, const char* policy) {
  const auto size = static_cast<std::uint64_t>(state.range(0));
  const auto replacement = sim::parse_replacements(policy);
  trace();  // made before anything is timed
  double ours = 1e9;
  for (auto _ : state) {
    ours = std::min(
        ours, bench::fastest(1, [&] {
          benchmark::DoNotOptimize(sim::hit_ratios(trace(), replacement, {.sizes = {size}, .threads = 1}).front().hits);
        }));
  }
  const double limit = lookups_per_second();
  state.counters["references_per_s"] = static_cast<double>(references) / ours;
  state.counters["lookups_per_s"] = limit;
  state.counters["ratio"] = static_cast<double>(references) / ours / limit;
}

/// Every size at once.
void lru_curve(benchmark::State& state) {
  trace();
  for (auto _ : state) benchmark::DoNotOptimize(sim::stack_distances(trace()));
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(references));
}

/// From the file to one hit ratio.
void read_and_replay(benchmark::State& state) {
  const auto lru = sim::parse_replacements("lru");
  file();
  for (auto _ : state) {
    const traces::BlockTrace fresh = traces::read_block_trace(file());
    benchmark::DoNotOptimize(sim::hit_ratios(fresh, lru, {.sizes = {10000}, .threads = 1}).front().hits);
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(references));
}

}  // namespace

BENCHMARK_CAPTURE(cache_replay, lru, "lru")->ArgName("objects")->Arg(1000)->Arg(10000)->Arg(100000);
BENCHMARK_CAPTURE(cache_replay, fifo, "fifo")->ArgName("objects")->Arg(10000);
BENCHMARK_CAPTURE(cache_replay, clock, "clock")->ArgName("objects")->Arg(10000);
BENCHMARK_CAPTURE(cache_replay, sieve, "sieve")->ArgName("objects")->Arg(10000);
BENCHMARK_CAPTURE(cache_replay, s3fifo, "s3fifo")->ArgName("objects")->Arg(10000);
BENCHMARK_CAPTURE(cache_replay, arc, "arc")->ArgName("objects")->Arg(10000);
BENCHMARK_CAPTURE(cache_replay, two_queue, "2q")->ArgName("objects")->Arg(10000);
BENCHMARK_CAPTURE(cache_replay, lfu, "lfu")->ArgName("objects")->Arg(10000);
BENCHMARK_CAPTURE(cache_replay, gdsf, "gdsf")->ArgName("objects")->Arg(10000);
BENCHMARK_CAPTURE(cache_replay, belady, "belady")->ArgName("objects")->Arg(10000);
BENCHMARK(lru_curve);
BENCHMARK(read_and_replay);

// How many transfers a second does a link simulate with many of them sharing it, and how many requests a tiered store?
#include <benchmark/benchmark.h>

#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "sim/memory/tiered_store.h"

namespace {

using namespace evictsim;
using sim::Direction;
using sim::Time;

/// Sizes of transfers, 1 MB on average.
std::vector<std::int64_t> sizes() {
  std::mt19937_64 generator(1);
  std::exponential_distribution<double> distribution(1e-6);
  std::vector<std::int64_t> values(1U << 16U);
  for (std::int64_t& value : values) value = 1 + static_cast<std::int64_t>(distribution(generator));
  return values;
}

/// Each transfer that arrives is followed by another, so that as many are always under way: half of them each way.
void share_link(benchmark::State& state) {
  const auto concurrent = static_cast<std::uint64_t>(state.range(0));
  const std::vector<std::int64_t> bytes = sizes();
  std::size_t next = 0;
  sim::Link link({.up = {.bytes_per_second = 50'000'000'000, .latency = 1000},
                  .down = {.bytes_per_second = 50'000'000'000, .latency = 1000},
                  .combined_bytes_per_second = state.range(1) == 0 ? 0 : 83'400'000'000});
  const auto start = [&](Time now, Direction direction) {
    link.start(now, direction, bytes[next++ % bytes.size()], 1, 0);
  };
  for (std::uint64_t i = 0; i < concurrent; ++i) start(0, i % 2 == 0 ? Direction::up : Direction::down);
  for (auto _ : state) {
    // Directions that share a bandwidth ask to be looked at whenever a transfer leaves, before it has arrived.
    std::optional<sim::Arrival> arrival;
    while (!arrival) arrival = link.pop_arrival(link.next_arrival());
    start(arrival->time, arrival->direction);
  }
  state.SetItemsProcessed(state.iterations());
}

/// Prompts of 64 blocks of a tree of prefixes, Zipf-like, over host memory and a disk: what is there is loaded, all is
/// stored.
void serve_from_tiers(benchmark::State& state) {
  constexpr std::size_t length = 64;
  std::mt19937_64 generator(1);
  std::vector<std::vector<std::uint64_t>> prompts(4096);
  for (auto& prompt : prompts) {
    const double uniform = std::uniform_real_distribution<double>(0, 1)(generator);
    const auto group = static_cast<std::uint64_t>(1000 * uniform * uniform * uniform);
    const std::size_t shared = generator() % length;
    for (std::size_t i = 0; i < length; ++i) {
      prompt.push_back(i < shared ? group << 32U | i : generator());
    }
  }
  sim::TieredStoreOptions options{.block_bytes = 2 << 20U, .tiers = std::vector<sim::TierOptions>(2)};
  for (sim::TierOptions& tier : options.tiers) {
    tier.link.up.bytes_per_second = tier.link.down.bytes_per_second = 50'000'000'000;
    tier.capacity_bytes = std::int64_t{10'000} * (2 << 20U);
  }
  options.tiers[0].write_down = sim::WriteDown::back;
  options.tiers[1].capacity_bytes *= 4;
  sim::TieredStore store(options);
  Time now = 0;
  std::size_t next = 0;
  for (auto _ : state) {
    const auto& prompt = prompts[next++ % prompts.size()];
    now += 5'000'000;
    while (store.pop(now)) {
    }
    store.load(now, {prompt}, 0, length, 1);
    store.store(now, {prompt}, 0, 2);
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(length));
}

}  // namespace

BENCHMARK(share_link)->ArgNames({"concurrent", "combined"})->ArgsProduct({{1, 32, 1000, 100'000}, {0, 1}});
BENCHMARK(serve_from_tiers);

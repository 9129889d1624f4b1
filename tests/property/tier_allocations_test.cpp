// Do links and tiered stores run without allocating memory once they have seen their largest load?
#include <catch2/catch.hpp>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <numeric>
#include <vector>

#include "sim/memory/tiered_store.h"

using namespace evictsim;
using sim::Direction;
using sim::Time;

namespace {

std::size_t allocations = 0;

}  // namespace

void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

TEST_CASE("A link with a hundred transfers does not allocate") {
  sim::Link link({.up = {.bytes_per_second = 1'000'000'000, .latency = 50}, .down = {.bytes_per_second = 1'000'000}});
  for (int i = 0; i < 100; ++i) link.start(0, Direction::up, 100 + i, 1, 0);
  std::size_t before = allocations;
  for (int i = 0; i < 10'000; ++i) {
    if (i == 1000) before = allocations;
    const auto arrival = link.pop_arrival(link.next_arrival());
    const auto id = link.start(arrival->time, Direction::up, 100 + i % 37, 1, 0);
    if (i % 5 == 0 && link.cancel(arrival->time, id)) link.start(arrival->time, Direction::up, 90, 1, 0);
  }
  CHECK(allocations == before);
}

TEST_CASE("A store that moves the same prompts over and over does not allocate") {
  sim::TieredStoreOptions options{.block_bytes = 100, .tiers = std::vector<sim::TierOptions>(2)};
  for (sim::TierOptions& tier : options.tiers) {
    tier.capacity_bytes = 3000;
    tier.link.up.bytes_per_second = tier.link.down.bytes_per_second = 1'000'000'000;
  }
  options.tiers[0].write_down = sim::WriteDown::back;
  sim::TieredStore store(options);
  std::vector<std::vector<std::uint64_t>> prompts(7, std::vector<std::uint64_t>(12));
  for (std::size_t i = 0; i < prompts.size(); ++i) std::iota(prompts[i].begin(), prompts[i].end(), 100 * i);
  Time now = 0;
  std::size_t before = 0, events = 0, counted = 0;
  for (std::size_t i = 0; i < 7 * 400; ++i) {
    if (i == 7 * 200) {
      before = allocations;
      counted = events;
    }
    now += 2500;
    while (store.pop(now)) ++events;
    store.load(now, {prompts[i % 7]}, 0, 12, i);
    store.store(now, {prompts[i % 7]}, 0, i);
  }
  CHECK(allocations == before);
  CHECK(events > counted + 1000);
}

// Is a cached prefix loaded exactly when that is done before computing it, with the published figures of an 8B model?
#include <catch2/catch.hpp>
#include <vector>

#include "sim/memory/load_or_recompute.h"
#include "traces/error.h"

using namespace evictsim;
using sim::LoadChoice;
using sim::Time;

namespace {

/// Bytes of a token of Llama-3.1-8B in bf16, and the time to compute one on an H100 at an MFU of 0.6.
constexpr std::int64_t token_bytes = 131'072;
constexpr Time token_time = 27'000;
constexpr std::int64_t block_tokens = 16;

sim::TierOptions tier(const std::string& name, std::int64_t bytes_per_second, Time latency) {
  sim::TierOptions options;
  options.name = name;
  options.capacity_bytes = std::int64_t{1} << 40U;
  options.link.up = {.bytes_per_second = bytes_per_second, .latency = latency};
  options.link.down = {.bytes_per_second = 1'000'000'000'000};
  return options;
}

sim::TieredStore make(std::vector<sim::TierOptions> tiers) {
  return sim::TieredStore({.block_bytes = token_bytes * block_tokens, .tiers = std::move(tiers)});
}

std::vector<std::uint64_t> prompt_of(std::size_t blocks) {
  std::vector<std::uint64_t> hashes(blocks);
  for (std::size_t i = 0; i < blocks; ++i) hashes[i] = i + 1;
  return hashes;
}

void fill(sim::TieredStore& store, const std::vector<std::uint64_t>& hashes) {
  store.store(0, {hashes}, 0, 0);
  while (store.next_time() != sim::end_of_time) store.pop(store.next_time());
}

LoadChoice choose(sim::TieredStore& store, const std::vector<std::uint64_t>& hashes, int layers = 1) {
  const auto found = store.find(hashes, 0);
  return sim::load_or_recompute(store, found, 0, layers, [&](std::size_t block) {
    return static_cast<Time>(hashes.size() - block) * block_tokens * token_time;
  });
}

/// Layer by layer: a layer is computed when it is there and the one before is computed.
Time slow_overlap(Time load, Time compute, int layers) {
  Time there = 0, computed = 0;
  for (int layer = 0; layer < layers; ++layer) {
    there += load / layers;
    computed = std::max(there, computed) + compute / layers;
  }
  return computed;
}

}  // namespace

TEST_CASE("From host memory at 50 GB/s an 8B model's prefix is loaded, ten times as fast as computed") {
  for (const std::size_t blocks : std::vector<std::size_t>{1, 64, 4096}) {
    sim::TieredStore store = make({tier("host", 50'000'000'000, 0)});
    const auto hashes = prompt_of(blocks);
    fill(store, hashes);
    const LoadChoice choice = choose(store, hashes);
    CHECK(choice.segments == 1);
    const double tokens = static_cast<double>(blocks) * block_tokens;
    CHECK(static_cast<double>(choice.load) / tokens == Approx(2621.44).epsilon(1e-4));  // 2.6 us a token
    CHECK(choice.finish == choice.load);
    CHECK(static_cast<double>(token_time) * tokens / static_cast<double>(choice.load) == Approx(10.3).epsilon(0.01));
  }
}

TEST_CASE("From an SSD at 5 GB/s it is close to break-even: latency or another load decides") {
  // 26.2 us a token against 27: the 80 us of latency are worth it from 102 tokens on.
  for (const auto& [blocks, loads] : std::vector<std::pair<std::size_t, bool>>{{1, false}, {6, false}, {7, true}}) {
    sim::TieredStore store = make({tier("disk", 5'000'000'000, 80'000)});
    const auto hashes = prompt_of(blocks);
    fill(store, hashes);
    const LoadChoice choice = choose(store, hashes);
    INFO(blocks << " blocks");
    CHECK(choice.segments == (loads ? 1 : 0));
    CHECK(choice.load == (loads ? store.load_time(store.find(hashes, 0)) : 0));
  }
  sim::TieredStore busy = make({tier("disk", 5'000'000'000, 80'000)});
  const auto hashes = prompt_of(1000);
  fill(busy, hashes);
  CHECK(choose(busy, hashes).segments == 1);
  busy.transfer(sim::nanoseconds_per_second, 0, sim::Direction::up, std::int64_t{1} << 35U, 1);
  CHECK(choose(busy, hashes).segments == 0);  // half the bandwidth is left
}

TEST_CASE("Near tiers are loaded and far ones computed") {
  auto host = tier("host", 50'000'000'000, 0);
  host.capacity_bytes = 100 * block_tokens * token_bytes;
  host.write_down = sim::WriteDown::through;
  sim::TieredStore store = make({host, tier("slow disk", 1'000'000'000, 0)});
  const auto hashes = prompt_of(400);
  fill(store, hashes);
  REQUIRE(store.find(hashes, 0).size() == 2);
  const LoadChoice choice = choose(store, hashes);
  CHECK(choice.segments == 1);
  CHECK(choice.compute == 300 * block_tokens * token_time);
  CHECK(choice.finish == choice.load + choice.compute);
  CHECK(choose(store, hashes, 32).finish == choice.compute + choice.load / 32 + (choice.load % 32 != 0 ? 1 : 0));
}

TEST_CASE("Nothing found is computed, and a tie is computed") {
  sim::TieredStore store = make({tier("host", 1'000'000'000'000, 0)});
  CHECK(choose(store, prompt_of(3)).segments == 0);
  fill(store, prompt_of(3));
  const auto hashes = prompt_of(3);
  const auto found = store.find(hashes, 0);
  const Time equal = store.load_time(found);
  const auto all = [&](std::size_t block) { return block == 0 ? equal : 0; };
  CHECK(sim::load_or_recompute(store, found, 0, 1, all).segments == 0);
  const auto one_more = [&](std::size_t block) { return block == 0 ? equal + 1 : 0; };
  CHECK(sim::load_or_recompute(store, found, 0, 1, one_more).segments == 1);
}

TEST_CASE("Layer by layer the shorter of load and computation hides but for one layer") {
  for (const int layers : {1, 2, 7, 32}) {
    for (const Time load : {0, 7, 100, 5000}) {
      for (const Time compute : {0, 3, 100, 4999}) {
        const Time whole_load = load * layers, whole_compute = compute * layers;  // layers of whole nanoseconds
        CHECK(sim::overlapped(whole_load, whole_compute, layers) == slow_overlap(whole_load, whole_compute, layers));
      }
    }
  }
  CHECK(sim::overlapped(300, 200, 1) == 500);  // blocking
  CHECK(sim::overlapped(10, 100, 3) == 104);   // rounded up
  CHECK(sim::overlapped(sim::end_of_time, 5, 1) == sim::end_of_time);
  CHECK_THROWS_AS(sim::overlapped(-1, 0, 1), Error);
  CHECK_THROWS_AS(sim::overlapped(0, -1, 1), Error);
  CHECK_THROWS_AS(sim::overlapped(0, 0, 0), Error);
}

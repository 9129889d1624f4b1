// Do blocks move between tiers when, where and as long as worked out by hand, and are tiers as large as they say?
#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>
#include <vector>

#include "sim/memory/tiered_store.h"
#include "traces/error.h"

using namespace evictsim;
using sim::Direction;
using sim::PrefixSegment;
using sim::StoreEvent;
using sim::TieredStore;
using sim::TieredStoreOptions;
using sim::TierOptions;
using sim::Time;
using sim::WriteDown;

namespace {

using Hashes = std::vector<std::uint64_t>;
using Segments = std::vector<PrefixSegment>;

/// Blocks of 100 bytes; this tier's link moves `rate` of them in 100 ns.
TierOptions tier(const std::string& name, std::int64_t blocks, std::int64_t rate = 1,
                 WriteDown write_down = WriteDown::none) {
  TierOptions options;
  options.name = name;
  options.capacity_bytes = 100 * blocks;
  options.link.up.bytes_per_second = options.link.down.bytes_per_second = rate * 1'000'000'000;
  options.write_down = write_down;
  return options;
}

TieredStore make(const std::vector<TierOptions>& tiers, bool exclusive = false) {
  return TieredStore({.block_bytes = 100, .exclusive = exclusive, .tiers = tiers});
}

/// Hashes of the blocks of prompt number `prompt`.
Hashes blocks(std::uint64_t prompt, std::size_t count) {
  Hashes hashes(count);
  std::iota(hashes.begin(), hashes.end(), 1000 * prompt);
  return hashes;
}

Segments found(TieredStore& store, const Hashes& hashes, std::size_t from = 0) {
  const auto segments = store.find(hashes, from);
  return {segments.begin(), segments.end()};
}

using Log = std::vector<std::pair<std::uint64_t, Time>>;

Log drain(TieredStore& store) {
  Log log;
  while (store.next_time() != sim::end_of_time) {
    const Time next = store.next_time();
    while (const auto event = store.pop(next)) log.emplace_back(event->tag, event->time);
    store.check();
  }
  return log;
}

ErrorCode code_of(const TieredStoreOptions& options) {
  try {
    const TieredStore store(options);
  } catch (const Error& error) {
    return error.code();
  }
  FAIL("nothing was refused");
  return {};
}

}  // namespace

TEST_CASE("Blocks are found when they have arrived, and loaded at the link's rate") {
  TieredStore store = make({tier("host", 10)});
  const Hashes prompt = blocks(1, 4);
  CHECK(found(store, prompt).empty());
  CHECK(store.store(0, {prompt}, 0, 7) == 4);
  CHECK(store.used_bytes(0) == 400);  // reserved
  CHECK(store.next_time() == 400);
  CHECK_FALSE(store.pop(399));
  CHECK(found(store, prompt).empty());
  const auto stored = store.pop(400);
  REQUIRE(stored);
  CHECK(stored->kind == StoreEvent::Kind::store);
  CHECK(stored->tag == 7);
  CHECK(found(store, prompt) == Segments{{0, 0, 4}});
  CHECK(found(store, prompt, 3) == Segments{{0, 3, 4}});
  CHECK(found(store, blocks(2, 4)).empty());

  CHECK(store.load(1000, {prompt}, 1, 3, 8) == 2);
  const auto loaded = store.pop(1200);
  REQUIRE(loaded);
  CHECK(loaded->kind == StoreEvent::Kind::load);
  CHECK(loaded->time == 1200);
  CHECK(found(store, prompt) == Segments{{0, 0, 4}});  // an inclusive store keeps them
  CHECK(store.load(1300, {blocks(2, 4)}, 0, 4, 9) == 0);
  CHECK(store.store(1300, {prompt}, 0, 9) == 0);
  CHECK(store.next_time() == sim::end_of_time);
  CHECK(store.totals(0).loaded_blocks == 2);
}

TEST_CASE("A prompt continues in whichever tier has its next block") {
  TieredStore store = make({tier("host", 2, 1, WriteDown::back), tier("disk", 10)});
  const Hashes prompt = blocks(1, 4);
  store.store(0, {Hashes(prompt.begin(), prompt.begin() + 2)}, 0, 1);
  drain(store);
  store.store(1000, {prompt}, 2, 2);  // the first two leave the host, written back
  drain(store);
  CHECK(found(store, prompt) == Segments{{1, 0, 2}, {0, 2, 4}});
  CHECK(store.totals(0).evicted == 2);
  CHECK(store.totals(0).written_down == 2);
}

TEST_CASE("From the disk blocks climb through the host and leave a copy there") {
  TieredStore store = make({tier("host", 4, 2, WriteDown::through), tier("disk", 10)});
  const Hashes prompt = blocks(1, 4);
  store.store(0, {prompt}, 0, 1);
  // 400 bytes at 2 B/ns to the host, then at 1 B/ns to the disk.
  CHECK(drain(store) == Log{{1, 200}});
  CHECK(store.totals(1).held == 4);
  store.store(1000, {blocks(2, 4)}, 0, 2);
  drain(store);
  CHECK(found(store, prompt) == Segments{{1, 0, 4}});
  CHECK(store.load_time(store.find(prompt, 0)) == 400 + 200);
  store.load(2000, {prompt}, 0, 4, 3);
  CHECK(store.next_time() == 2400);
  CHECK_FALSE(store.pop(2599));
  CHECK(found(store, prompt) == Segments{{0, 0, 4}});  // on the host since 2400
  CHECK(drain(store) == Log{{3, 2600}});
  CHECK(found(store, blocks(2, 4)) == Segments{{1, 0, 4}});
  CHECK(store.totals(1).held == 8);
}

TEST_CASE("Parts of a load that come from several tiers move side by side and share links") {
  TieredStore store = make({tier("host", 2, 1, WriteDown::back), tier("disk", 10)}, true);
  const Hashes prompt = blocks(1, 4);
  store.store(0, {Hashes(prompt.begin(), prompt.begin() + 2)}, 0, 1);
  drain(store);
  store.store(1000, {prompt}, 2, 2);
  drain(store);
  REQUIRE(found(store, prompt) == Segments{{1, 0, 2}, {0, 2, 4}});
  CHECK(store.load(2000, {prompt}, 0, 4, 3) == 4);
  // Disk to host and host to device both until 2200; then the first two blocks go on to the device until 2400.
  CHECK(drain(store) == Log{{3, 2400}});
  CHECK(found(store, prompt).empty());  // exclusive: the device has them now
  CHECK(store.totals(0).moved == 2);
  CHECK(store.totals(1).moved == 2);
  CHECK(store.used_bytes(0) + store.used_bytes(1) == 0);
}

TEST_CASE("An exclusive store takes a chunk from below when the device writes it again") {
  TieredStore store = make({tier("host", 2, 1, WriteDown::back), tier("disk", 10)}, true);
  const Hashes one = blocks(1, 2);
  store.store(0, {one}, 0, 1);
  drain(store);
  store.store(1000, {blocks(2, 2)}, 0, 2);
  drain(store);
  CHECK(found(store, one) == Segments{{1, 0, 2}});
  store.store(2000, {one}, 0, 3);
  drain(store);
  CHECK(found(store, one) == Segments{{0, 0, 2}});
  CHECK(found(store, blocks(2, 2)) == Segments{{1, 0, 2}});
  CHECK(store.totals(1).held == 2);
}

TEST_CASE("Dropped chunks go nowhere, and a prompt's end leaves before its beginning") {
  TieredStore store = make({tier("host", 3), tier("disk", 10)});
  const Hashes prompt = blocks(1, 3);
  store.store(0, {prompt}, 0, 1);
  drain(store);
  store.store(1000, {blocks(2, 1)}, 0, 2);
  drain(store);
  CHECK(found(store, prompt) == Segments{{0, 0, 2}});
  CHECK(store.totals(0).evicted == 1);
  CHECK(store.totals(1).came_in == 0);
}

TEST_CASE("A prompt larger than a tier keeps its beginning there, and only that is moved") {
  TieredStore store = make({tier("host", 3)});
  const Hashes prompt = blocks(1, 8);
  CHECK(store.store(0, {prompt}, 0, 1) == 3);
  CHECK(drain(store) == Log{{1, 300}});
  CHECK(found(store, prompt) == Segments{{0, 0, 3}});
  CHECK(store.totals(0).lost == 5);
  TieredStore none = make({tier("host", 0)});
  CHECK(none.store(0, {prompt}, 0, 1) == 0);
  CHECK(none.totals(0).refused == 8);
}

TEST_CASE("A chunk that is evicted on its way is lost, and its bytes arrive nowhere") {
  TieredStore store = make({tier("host", 2, 1, WriteDown::back), tier("disk", 10)});
  store.store(0, {blocks(1, 2)}, 0, 1);
  store.store(50, {blocks(2, 2)}, 0, 2);
  CHECK(store.link(0).totals(Direction::down).in_flight() == 400);
  // Each at half the rate from 50 to 350, then the second alone.
  CHECK(drain(store) == Log{{1, 350}, {2, 400}});
  CHECK(found(store, blocks(1, 2)).empty());
  CHECK(found(store, blocks(2, 2)) == Segments{{0, 0, 2}});
  CHECK(store.totals(0).lost == 2);
  CHECK(store.totals(1).came_in == 0);
}

TEST_CASE("Tiers may have larger chunks, of which a load reads the part it needs") {
  std::vector<TierOptions> tiers = {tier("host", 4, 1, WriteDown::through), tier("disk", 100)};
  tiers[1].chunk_blocks = 4;
  TieredStore store = make(tiers);
  const Hashes prompt = blocks(1, 11);
  store.store(0, {Hashes(prompt.begin(), prompt.begin() + 6)}, 0, 1);
  drain(store);
  CHECK(store.totals(1).came_in == 1);  // blocks 4 and 5 are not a chunk of the disk yet
  store.store(2000, {prompt}, 6, 2);    // blocks 4 to 7 are
  drain(store);
  CHECK(store.totals(1).came_in == 2);
  CHECK(found(store, prompt, 1) == Segments{{1, 1, 6}, {0, 6, 10}});
  CHECK(found(store, Hashes(prompt.begin(), prompt.begin() + 7), 5).empty());  // its chunk belongs to a longer prompt
  // From block 1 on, five blocks come from the disk: 500 ns a hop.
  CHECK(store.load(9000, {prompt}, 1, 6, 3) == 5);
  CHECK(drain(store) == Log{{3, 10'000}});
}

TEST_CASE("Small pieces cost time each") {
  std::vector<TierOptions> tiers = {tier("host", 10)};
  tiers[0].link.down.piece = 10;
  tiers[0].link.down.latency = 1000;
  TieredStore whole = make(tiers);
  whole.store(0, {blocks(1, 4)}, 0, 1);
  CHECK(drain(whole) == Log{{1, 400 + 4 * 10 + 1000}});
  tiers[0].piece_bytes = 16;
  TieredStore pieces = make(tiers);
  pieces.store(0, {blocks(1, 4)}, 0, 1);
  CHECK(drain(pieces) == Log{{1, 400 + 25 * 10 + 1000}});
}

TEST_CASE("Pages of 16 and of 128 tokens: 20 ms and 8 ms for the same 7,500 tokens, as published") {
  // Llama-3.1-8B, 131,072 bytes a token; 469 pages against 59, so 29.3 us a page and 6.27 ms for the bytes.
  sim::LinkOptions options;
  options.up = {.bytes_per_second = 156'700'000'000, .latency = 0, .piece = 29'268};
  options.down = options.up;
  const auto time = [&](std::int64_t page) {
    sim::Link link(options);
    link.start(0, Direction::up, 7500 * std::int64_t{131'072}, (7500 + page - 1) / page, 1);
    return sim::to_seconds(link.next_arrival());
  };
  CHECK(time(16) == Approx(0.020).epsilon(0.005));
  CHECK(time(128) == Approx(0.008).epsilon(0.005));
}

TEST_CASE("What is set aside evicts chunks, and is given back") {
  TieredStore store = make({tier("host", 4, 1, WriteDown::back), tier("disk", 10)});
  store.store(0, {blocks(1, 4)}, 0, 1);
  drain(store);
  CHECK(store.set_aside(1000, 0, 150));
  CHECK(store.totals(0).held == 2);
  CHECK(store.used_bytes(0) == 350);
  CHECK_FALSE(store.set_aside(1000, 0, 251));
  store.transfer(1000, 0, Direction::down, 150, 2);
  CHECK(drain(store) == Log{{2, 1150}});
  CHECK(found(store, blocks(1, 4)) == Segments{{0, 0, 2}, {1, 2, 4}});
  CHECK_THROWS_AS(store.give_back(1200, 0, 151), Error);
  store.give_back(1200, 0, 150);
  store.store(2000, {blocks(2, 2)}, 0, 3);
  drain(store);
  CHECK(store.totals(0).held == 4);
  store.check();
}

TEST_CASE("Swapped bytes and loads share a link") {
  TieredStore store = make({tier("host", 10)});
  store.store(0, {blocks(1, 2)}, 0, 1);
  drain(store);
  store.load(1000, {blocks(1, 2)}, 0, 2, 2);
  store.transfer(1000, 0, Direction::up, 100, 3);
  store.transfer(1000, 0, Direction::down, 100, 4);
  CHECK(store.load_time(store.find(blocks(1, 2), 0)) == 600);
  CHECK(drain(store) == Log{{4, 1100}, {3, 1200}, {2, 1300}});
}

TEST_CASE("A late look finds everything at its own time, also what followed from it") {
  const auto run = [](Time step) {
    TieredStore store = make({tier("host", 3, 3, WriteDown::back), tier("ssd", 5, 2, WriteDown::back), tier("far", 9)});
    Log log;
    const auto look = [&](Time now) {
      while (const auto event = store.pop(now)) log.emplace_back(event->tag, event->time);
    };
    for (std::uint64_t i = 0; i < 8; ++i) {
      const Time now = static_cast<Time>(i) * 130;
      for (Time at = now - 130; step != 0 && at < now; at += step) look(std::max<Time>(at, 0));
      store.store(now, {blocks(i % 5, 3)}, 0, i);
      store.load(now, {blocks((i + 3) % 5, 3)}, 0, 3, 100 + i);
    }
    look(100'000);
    store.check();
    return log;
  };
  const Log late = run(0);
  CHECK(late.size() > 8);
  CHECK(run(1) == late);
  CHECK(run(37) == late);
}

TEST_CASE("Costs and next references reach the policies that look at them") {
  TierOptions costly = tier("host", 2);
  costly.replacement = sim::parse_replacement("gdsf");
  TieredStore gdsf = make({costly});
  const Hashes a = {1}, b = {2}, c = {3};
  const std::vector<double> dear = {100.0}, cheap = {1.0};
  gdsf.store(0, {a, dear}, 0, 1);
  gdsf.store(0, {b, cheap}, 0, 1);
  gdsf.store(0, {c, cheap}, 0, 1);
  drain(gdsf);
  CHECK(found(gdsf, a).size() == 1);
  CHECK(found(gdsf, b).empty());

  TierOptions clairvoyant = tier("host", 2);
  clairvoyant.replacement = sim::parse_replacement("belady");
  TieredStore belady = make({clairvoyant});
  const std::vector<std::uint64_t> soon = {5}, late = {50};
  CHECK_THROWS_AS(belady.store(0, {a}, 0, 1), Error);
  belady.store(0, {a, {}, late}, 0, 1);
  belady.store(0, {b, {}, soon}, 0, 1);
  belady.store(0, {c, {}, soon}, 0, 1);
  drain(belady);
  CHECK(found(belady, a).empty());
  CHECK(found(belady, b).size() == 1);
}

TEST_CASE("Stores that cannot be are refused") {
  CHECK(code_of({.block_bytes = 100, .tiers = {}}) == ErrorCode::invalid_argument);
  CHECK(code_of({.block_bytes = 0, .tiers = {tier("host", 1)}}) == ErrorCode::invalid_argument);
  CHECK(code_of({.block_bytes = 100, .tiers = {tier("host", -1)}}) == ErrorCode::invalid_argument);
  CHECK(code_of({.block_bytes = 100, .tiers = {tier("host", 1, 1, WriteDown::back)}}) == ErrorCode::invalid_argument);
  CHECK(code_of({.block_bytes = 100,
                 .exclusive = true,
                 .tiers = {tier("host", 1, 1, WriteDown::through), tier("disk", 1)}}) == ErrorCode::invalid_argument);
  std::vector<TierOptions> tiers = {tier("host", 1, 1, WriteDown::back), tier("disk", 1)};
  tiers[1].chunk_blocks = 2;
  CHECK(code_of({.block_bytes = 100, .tiers = tiers}) == ErrorCode::invalid_argument);
  tiers[1].chunk_blocks = 0;
  CHECK(code_of({.block_bytes = 100, .tiers = tiers}) == ErrorCode::invalid_argument);

  TieredStore store = make({tier("host", 4)});
  const Hashes prompt = blocks(1, 2);
  const std::vector<double> one_cost = {1.0};
  CHECK_THROWS_AS(store.store(0, {prompt, one_cost}, 0, 1), Error);
  CHECK_THROWS_AS(store.transfer(0, 1, Direction::up, 1, 1), Error);
  CHECK_THROWS_AS(store.transfer(0, 0, Direction::up, -1, 1), Error);
  CHECK_THROWS_AS(store.set_aside(0, 0, -1), Error);
  store.store(10, {prompt}, 0, 1);
  CHECK_THROWS_AS(store.store(9, {prompt}, 0, 1), Error);
  CHECK(store.store(10, {prompt}, 5, 1) == 0);
  CHECK(found(store, prompt, 5).empty());
  store.check();
}

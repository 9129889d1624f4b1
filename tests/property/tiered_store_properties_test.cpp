// On random requests, does a tiered store hold what plain lists hold, hit as single caches do, and lose no byte?
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <list>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "sim/memory/replacement_replay.h"
#include "sim/memory/tiered_store.h"

using namespace evictsim;
using sim::Direction;
using sim::PrefixSegment;
using sim::TieredStore;
using sim::TierOptions;
using sim::Time;
using sim::WriteDown;

namespace {

using Hashes = std::vector<std::uint64_t>;
constexpr std::int64_t block_bytes = 100;

TierOptions tier(std::int64_t blocks, const std::string& replacement, WriteDown write_down) {
  TierOptions options;
  options.name = "tier";
  options.capacity_bytes = block_bytes * blocks;
  options.replacement = sim::parse_replacement(replacement);
  options.link.up.bytes_per_second = options.link.down.bytes_per_second = 1'000'000'000;
  options.write_down = write_down;
  return options;
}

/// A prompt of a small tree of prefixes: equal hashes mean equal beginnings.
Hashes random_prompt(std::mt19937_64& generator) {
  Hashes hashes(1 + generator() % 9);
  std::uint64_t path = 0;
  for (std::uint64_t& hash : hashes) hash = path = path * 3 + 1 + generator() % 2;
  return hashes;
}

/// Two LRU tiers of whole blocks, as lists; movements end before anything else happens.
struct SlowStore {
  std::array<std::size_t, 2> capacity;
  bool exclusive;
  WriteDown write_down;
  std::array<std::list<std::uint64_t>, 2> tiers;  ///< the latest first
  std::set<std::uint64_t> coming;                 ///< into the first tier

  bool has(std::size_t tier, std::uint64_t hash) const {
    return std::find(tiers[tier].begin(), tiers[tier].end(), hash) != tiers[tier].end();
  }
  std::vector<int> find(const Hashes& hashes) const {
    std::vector<int> where;
    for (const std::uint64_t hash : hashes) {
      if (!has(0, hash) && !has(1, hash)) break;
      where.push_back(has(0, hash) ? 0 : 1);
    }
    return where;
  }
  /// Into a tier in this order; who leaves the first one is written down, if so.
  bool insert(std::size_t tier, const Hashes& hashes) {
    Hashes demoted;
    std::set<std::uint64_t> mine;
    for (const std::uint64_t hash : hashes) {
      if (has(tier, hash) || capacity[tier] == 0 || (exclusive && tier == 1 && has(0, hash))) continue;
      if (tiers[tier].size() == capacity[tier]) {
        const std::uint64_t victim = tiers[tier].back();
        tiers[tier].pop_back();
        const bool arrived = mine.erase(victim) == 0 && (tier == 1 || coming.erase(victim) == 0);
        if (tier == 0 && arrived && write_down == WriteDown::back && !has(1, victim)) demoted.push_back(victim);
      }
      tiers[tier].push_front(hash);
      mine.insert(hash);
      if (exclusive && tier == 0) tiers[1].remove(hash);
    }
    if (tier == 0) coming.insert(mine.begin(), mine.end());
    if (!demoted.empty()) insert(1, demoted);
    return !mine.empty();
  }
  void store(const Hashes& hashes) {
    const Hashes turned(hashes.rbegin(), hashes.rend());
    if (insert(0, turned) && write_down == WriteDown::through) insert(1, turned);
    coming.clear();
  }
  void load(const Hashes& hashes) {
    const std::vector<int> where = find(hashes);
    std::vector<Hashes> climbing;
    for (std::size_t first = 0; first < where.size();) {
      std::size_t last = first;
      while (last < where.size() && where[last] == where[first]) ++last;
      const auto at = static_cast<std::size_t>(where[first]);
      for (std::size_t i = last; i-- > first;) {
        tiers[at].remove(hashes[i]);
        tiers[at].push_front(hashes[i]);
      }
      if (at == 1)
        climbing.emplace_back(std::make_reverse_iterator(hashes.begin() + static_cast<std::ptrdiff_t>(last)),
                              std::make_reverse_iterator(hashes.begin() + static_cast<std::ptrdiff_t>(first)));
      first = last;
    }
    if (exclusive) {
      for (std::size_t i = 0; i < where.size(); ++i) tiers[static_cast<std::size_t>(where[i])].remove(hashes[i]);
    } else {
      for (const Hashes& part : climbing) insert(0, part);
    }
    coming.clear();
  }
};

std::vector<int> where(TieredStore& store, const Hashes& hashes) {
  std::vector<int> tiers;
  for (const PrefixSegment& segment : store.find(hashes, 0)) {
    tiers.insert(tiers.end(), segment.last - segment.first, static_cast<int>(segment.tier));
  }
  return tiers;
}

/// Until nothing moves any more; the time of the last event.
Time settle(TieredStore& store, Time now) {
  while (store.next_time() != sim::end_of_time) {
    now = store.next_time();
    store.pop(now);
  }
  return now;
}

}  // namespace

TEST_CASE("Two tiers hold what two lists hold") {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    std::mt19937_64 generator(seed);
    SlowStore slow{.capacity = {generator() % 8, generator() % 20},
                   .exclusive = seed % 5 >= 3,
                   .write_down = std::array{WriteDown::none, WriteDown::back, WriteDown::through, WriteDown::none,
                                            WriteDown::back}[seed % 5]};
    TieredStore store({.block_bytes = block_bytes,
                       .exclusive = slow.exclusive,
                       .tiers = {tier(static_cast<std::int64_t>(slow.capacity[0]), "lru", slow.write_down),
                                 tier(static_cast<std::int64_t>(slow.capacity[1]), "lru", WriteDown::none)}});
    Time now = 0;
    for (int request = 0; request < 60; ++request) {
      INFO("seed " << seed << ", request " << request);
      const Hashes prompt = random_prompt(generator);
      REQUIRE(where(store, prompt) == slow.find(prompt));
      if (generator() % 2 == 0) {
        store.store(now, {prompt}, 0, 1);
        slow.store(prompt);
      } else {
        store.load(now, {prompt}, 0, prompt.size(), 1);
        slow.load(prompt);
      }
      now = settle(store, now);
      store.check();
      for (std::uint32_t t = 0; t < 2; ++t) {
        REQUIRE(store.used_bytes(t) == static_cast<std::int64_t>(slow.tiers[t].size()) * block_bytes);
      }
    }
  }
}

TEST_CASE("One tier hits exactly where its policy does in a cache alone") {
  for (const sim::Replacement& replacement : sim::parse_replacements("all")) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      std::mt19937_64 generator(seed);
      const std::int64_t capacity = 1 + static_cast<std::int64_t>(generator() % 40);
      std::vector<std::uint64_t> references(600);
      for (auto& reference : references) reference = std::min(generator() % 60, generator() % 60);
      std::vector<std::uint64_t> next(references.size(), sim::never);
      for (std::size_t i = 0; i < references.size(); ++i) {
        const auto again =
            std::find(references.begin() + static_cast<std::ptrdiff_t>(i) + 1, references.end(), references[i]);
        if (again != references.end()) next[i] = static_cast<std::uint64_t>(again - references.begin());
      }
      TieredStore store({.block_bytes = block_bytes, .tiers = {tier(capacity, replacement.text, WriteDown::none)}});
      const auto policy = replacement.make({.capacity = static_cast<std::uint64_t>(capacity), .objects = 60});
      // The store numbers blocks as they come, and ties may go by number.
      std::vector<sim::Object> numbers(60, 60);
      sim::Object known = 0;
      std::uint64_t used = 0;
      Time now = 0;
      for (std::size_t i = 0; i < references.size(); ++i) {
        INFO(replacement.text << ", seed " << seed << ", reference " << i);
        sim::Object& object = numbers[references[i]];
        if (object == 60) object = known++;
        const Hashes block = {references[i]};
        const std::vector<std::uint64_t> again = {next[i]};
        const bool hit = !store.find(block, 0).empty();
        REQUIRE(hit == sim::refer(*policy, {.object = object, .next_reference = next[i]},
                                  static_cast<std::uint64_t>(capacity), used, [](sim::Object) {}));
        if (hit) {
          store.load(now, {block, {}, again}, 0, 1, 1);
        } else {
          store.store(now, {block, {}, again}, 0, 1);
        }
        now = settle(store, now);
      }
      store.check();
    }
  }
}

TEST_CASE("Whatever happens at once, chunks and bytes are conserved and everything comes to an end") {
  const std::vector<std::string> policies = {"lru", "lfu", "fifo", "clock", "sieve", "s3fifo", "arc", "2q", "gdsf"};
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    INFO("seed " << seed);
    const auto run = [seed, &policies](bool polls) {
      std::mt19937_64 generator(seed);
      std::mt19937_64 moments(seed);
      const auto policy = [&] { return policies[generator() % policies.size()]; };
      const bool exclusive = generator() % 2 == 0;
      std::vector<TierOptions> tiers;
      for (int i = 0; i < 3; ++i) {
        const auto capacity = static_cast<std::int64_t>(generator() % 30);
        const WriteDown write_down = i == 2 || generator() % 3 == 0      ? WriteDown::none
                                     : exclusive || generator() % 2 == 0 ? WriteDown::back
                                                                         : WriteDown::through;
        tiers.push_back(tier(capacity, policy(), write_down));
        tiers.back().link.up.latency = static_cast<Time>(generator() % 3 * 70);
      }
      TieredStore store({.block_bytes = block_bytes, .exclusive = exclusive, .tiers = tiers});
      std::vector<std::array<std::int64_t, 3>> log;
      std::array<std::size_t, 3> asked = {}, happened = {};  // loads, stores, transfers
      const auto look = [&](Time now) {
        while (const auto event = store.pop(now)) {
          ++happened[static_cast<std::size_t>(event->kind)];
          log.push_back({event->time, static_cast<std::int64_t>(event->kind), static_cast<std::int64_t>(event->tag)});
        }
        store.check();
      };
      std::vector<std::int64_t> aside;
      Time now = 0;
      for (std::uint64_t request = 0; request < 80; ++request) {
        const Time then = now + static_cast<Time>(generator() % 400);
        for (; polls && now < then; now += static_cast<Time>(1 + moments() % 300)) look(now);
        now = then;
        const Hashes prompt = random_prompt(generator);
        switch (generator() % 6) {
          case 0:
            if (const auto bytes = static_cast<std::int64_t>(generator() % 1500); store.set_aside(now, 0, bytes)) {
              aside.push_back(bytes);
              store.transfer(now, 0, Direction::down, bytes, request);
              ++asked[2];
            }
            break;
          case 1:
            if (!aside.empty()) {
              store.give_back(now, 0, aside.back());
              aside.pop_back();
            }
            break;
          case 2:
          case 3:
            asked[0] += store.load(now, {prompt}, generator() % prompt.size(), prompt.size(), request) != 0 ? 1U : 0U;
            break;
          default:
            asked[1] += store.store(now, {prompt}, generator() % prompt.size(), request) != 0 ? 1U : 0U;
        }
        store.check();
      }
      while (store.next_time() != sim::end_of_time) look(std::max(now, store.next_time()));
      CHECK(asked == happened);
      for (std::uint32_t t = 0; t < store.tiers(); ++t) {
        CHECK(store.used_bytes(t) <= tiers[t].capacity_bytes);
        for (const Direction direction : {Direction::up, Direction::down}) {
          CHECK(store.link(t).totals(direction).in_flight() == 0);
        }
      }
      return log;
    };
    const auto log = run(false);
    CHECK(run(true) == log);
  }
}

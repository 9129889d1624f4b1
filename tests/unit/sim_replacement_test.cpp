// Does every replacement policy do what its paper says, and what an obvious implementation of it does?
#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <random>
#include <set>

#include "sim/memory/hit_ratio.h"
#include "sim/memory/replacement_cache.h"
#include "tests/support/slow_caches.h"
#include "traces/error.h"

using namespace evictsim;
using Catch::Matchers::Contains;
using sim::Object;
using tests::SlowReference;

namespace {

struct Case {
  std::vector<SlowReference> references;
  std::uint64_t capacity = 1;
};

/// Few objects, some favoured, with scans between, so that every queue and ghost gets its share.
Case random_case(std::uint64_t seed, bool in_bytes) {
  std::mt19937_64 generator(seed);
  const int objects = 2 + static_cast<int>(generator() % 60);
  std::vector<std::uint64_t> sizes;
  for (int i = 0; i < objects; ++i) sizes.push_back(in_bytes ? 1 + generator() % 20 : 1);
  Case result;
  result.capacity = in_bytes ? 1 + generator() % (6 * static_cast<unsigned>(objects))
                             : 1 + generator() % static_cast<unsigned>(objects);
  int scan = 0;
  for (int i = 0; i < 1500; ++i) {
    int object = static_cast<int>(generator() % static_cast<unsigned>(objects));
    if (generator() % 2 == 0) object /= 4;
    if (generator() % 3 == 0) object = scan++ % objects;
    result.references.push_back({object, sizes[static_cast<std::size_t>(object)]});
  }
  return result;
}

traces::BlockTrace trace_of(const std::vector<SlowReference>& references) {
  traces::BlockTrace trace;
  trace.name = "made up";
  std::map<int, Object> numbers;
  for (const SlowReference& reference : references) {
    trace.references.push_back(numbers.emplace(reference.object, static_cast<Object>(numbers.size())).first->second);
    trace.sizes.push_back(reference.size);
  }
  trace.objects = static_cast<std::uint32_t>(numbers.size());
  return trace;
}

std::uint64_t hits_of(const std::string& policy, const traces::BlockTrace& trace, std::uint64_t capacity,
                      bool in_bytes) {
  return sim::hit_ratios(trace, {sim::parse_replacement(policy)},
                         {.sizes = {capacity}, .bytes = in_bytes, .threads = 1})
      .front()
      .hits;
}

const std::vector<std::string>& policies_with_slow_form() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all = {"clock(bits=2)", "s3fifo(fill=small)"};
    for (const sim::ReplacementKind* kind : sim::replacement_kinds()) all.push_back(kind->name);
    return all;
  }();
  return names;
}

}  // namespace

TEST_CASE("replays agree with obvious implementations") {
  for (const std::string& policy : policies_with_slow_form()) {
    for (const bool in_bytes : {false, true}) {
      for (std::uint64_t seed = 0; seed < 30; ++seed) {
        const Case example = random_case(seed, in_bytes);
        const std::vector<bool> slow = tests::slow_hits(policy, example.references, example.capacity, in_bytes);
        INFO(policy << (in_bytes ? " in bytes, seed " : ", seed ") << seed << ", capacity " << example.capacity);
        REQUIRE(hits_of(policy, trace_of(example.references), example.capacity, in_bytes) ==
                static_cast<std::uint64_t>(std::count(slow.begin(), slow.end(), true)));
      }
    }
  }
}

TEST_CASE("a cache referred to one by one hits where the obvious one hits, and keeps its books") {
  for (const std::string& policy : policies_with_slow_form()) {
    if (policy == "belady") continue;
    for (const bool in_bytes : {false, true}) {
      const Case example = random_case(77, in_bytes);
      const std::vector<bool> slow = tests::slow_hits(policy, example.references, example.capacity, in_bytes);
      // It grows as objects appear.
      sim::ReplacementCache cache(sim::parse_replacement(policy),
                                  {.capacity = example.capacity, .objects = 0, .unit_weights = !in_bytes});
      std::map<Object, std::uint64_t> resident;
      for (std::size_t i = 0; i < example.references.size(); ++i) {
        const auto object = static_cast<Object>(example.references[i].object);
        const std::uint64_t size = example.references[i].size;
        INFO(policy << ", reference " << i);
        const bool was_resident = resident.contains(object);
        const bool hit = cache.refer({.object = object, .weight = size}, [&](Object victim) {
          REQUIRE(victim != object);
          REQUIRE(resident.erase(victim) == 1);
        });
        REQUIRE(hit == was_resident);
        REQUIRE(hit == slow[i]);
        if (cache.contains(object)) resident[object] = size;
        std::uint64_t used = 0;
        for (const auto& [inside, weight] : resident) used += weight;
        REQUIRE(cache.used() == used);
        REQUIRE(used <= cache.capacity());
      }
    }
  }
}

TEST_CASE("what is erased is gone, and the policy goes on") {
  for (const sim::ReplacementKind* kind : sim::replacement_kinds()) {
    if (kind->sees_future) continue;
    INFO(kind->name);
    sim::ReplacementCache cache(sim::parse_replacement(kind->name), {.capacity = 20, .objects = 100});
    std::mt19937 generator(5);
    for (int i = 0; i < 5000; ++i) {
      const auto object = static_cast<Object>(generator() % 60);
      if (generator() % 4 == 0) {
        const bool resident = cache.contains(object);
        const std::uint64_t before = cache.used();
        REQUIRE(cache.erase(object) == resident);
        REQUIRE(cache.used() == before - (resident ? 1 : 0));
        REQUIRE_FALSE(cache.contains(object));
      } else {
        cache.refer({.object = object});
        REQUIRE(cache.contains(object));
        REQUIRE(cache.used() <= 20);
      }
    }
  }
}

TEST_CASE("Belady's MIN reaches the most hits that any choice of victims does") {
  std::mt19937 generator(11);
  for (int example = 0; example < 60; ++example) {
    std::vector<int> references;
    std::vector<SlowReference> same;
    for (int i = 0; i < 12; ++i) {
      references.push_back(static_cast<int>(generator() % 6));
      same.push_back({references.back(), 1});
    }
    const std::size_t capacity = 1 + generator() % 4;
    const traces::BlockTrace trace = trace_of(same);
    const std::size_t bound = tests::most_hits(references, capacity);
    REQUIRE(hits_of("belady", trace, capacity, false) == bound);
    for (const sim::ReplacementKind* kind : sim::replacement_kinds()) {
      REQUIRE(hits_of(kind->name, trace, capacity, false) <= bound);
    }
  }
}

TEST_CASE("the examples of textbooks") {
  // Belady's anomaly: FIFO misses more often with more room.
  std::vector<SlowReference> references;
  for (const int object : {1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 5}) references.push_back({object, 1});
  const traces::BlockTrace trace = trace_of(references);
  CHECK(hits_of("fifo", trace, 3, false) == 12 - 9);
  CHECK(hits_of("fifo", trace, 4, false) == 12 - 10);
  CHECK(hits_of("lru", trace, 3, false) == 12 - 10);
  CHECK(hits_of("lru", trace, 4, false) == 12 - 8);
  CHECK(hits_of("belady", trace, 3, false) == 12 - 7);
  CHECK(hits_of("belady", trace, 4, false) == 12 - 6);
}

TEST_CASE("cost decides in GDSF") {
  sim::ReplacementCache cache(sim::parse_replacement("gdsf"), {.capacity = 2, .objects = 3});
  cache.refer({.object = 0, .cost = 5});
  cache.refer({.object = 1, .cost = 1});
  cache.refer({.object = 2, .cost = 3});
  CHECK(cache.contains(0));
  CHECK_FALSE(cache.contains(1));
}

TEST_CASE("every policy says what it is, under its own name") {
  std::set<std::string> names;
  for (const sim::ReplacementKind* kind : sim::replacement_kinds()) {
    CHECK(names.insert(kind->name).second);
    CHECK_FALSE(kind->sentence.empty());
    CHECK_FALSE(kind->citation.empty());
  }
  CHECK(names ==
        std::set<std::string>{"lru", "lfu", "fifo", "clock", "sieve", "s3fifo", "arc", "2q", "gdsf", "belady"});
  CHECK(sim::parse_replacements("all").size() == names.size());
}

TEST_CASE("bad policies and references are named") {
  CHECK_THROWS_WITH(sim::parse_replacement("lruu"), Contains("lruu") && Contains("did you mean lru"));
  CHECK_THROWS_WITH(sim::parse_replacement("s3-fifo"), Contains("did you mean s3fifo"));
  CHECK_THROWS_WITH(sim::parse_replacement("clock(bits=9)"), Contains("bits"));
  CHECK_THROWS_WITH(sim::parse_replacement("clock(bit=1)"), Contains("bits"));
  CHECK_THROWS_AS(sim::parse_replacement("clock(2)"), Error);
  CHECK_THROWS_AS(sim::parse_replacement("lru(arc)"), Error);
  CHECK_THROWS_AS(sim::parse_replacement(""), Error);
  const sim::Replacement lru = sim::parse_replacement("lru");
  CHECK_THROWS_AS(sim::ReplacementCache(lru, {.capacity = 0}), Error);
  CHECK_THROWS_WITH(sim::ReplacementCache(sim::parse_replacement("belady"), {.capacity = 1}), Contains("future"));
  sim::ReplacementCache cache(lru, {.capacity = 4, .objects = 4});
  CHECK_THROWS_AS(cache.refer({.object = 0, .weight = 0}), Error);
  CHECK_THROWS_AS(cache.refer({.object = 0, .weight = 2}), Error);
}

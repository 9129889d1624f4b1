// Are hit ratios exact for every size at once, do requests count as wholes, and are sampled ones as good as they say?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <list>
#include <random>
#include <set>

#include "sim/memory/hit_ratio.h"
#include "sim/memory/stack_distance.h"
#include "traces/error.h"

using namespace evictsim;
using Catch::Matchers::Contains;
using sim::Object;

namespace {

/// Zipf's law with exponent 1 over `objects`, numbered by their first reference.
traces::BlockTrace zipf(std::uint64_t seed, std::uint32_t objects, std::size_t references) {
  std::vector<double> sums(objects);
  double sum = 0;
  for (std::uint32_t rank = 0; rank < objects; ++rank) sums[rank] = sum += 1.0 / (rank + 1.0);
  std::mt19937_64 generator(seed);
  traces::BlockTrace trace;
  trace.name = "zipf";
  constexpr Object unseen = 0xffffffffU;
  std::vector<Object> numbers(objects, unseen);
  for (std::size_t i = 0; i < references; ++i) {
    const double draw = static_cast<double>(generator() >> 11U) * 0x1p-53 * sum;
    Object& number =
        numbers[static_cast<std::size_t>(std::upper_bound(sums.begin(), sums.end() - 1, draw) - sums.begin())];
    if (number == unseen) number = trace.objects++;
    trace.references.push_back(number);
  }
  return trace;
}

/// Cuts a trace into requests of up to `longest` references.
traces::BlockTrace with_requests(traces::BlockTrace trace, std::uint64_t seed, std::size_t longest) {
  std::mt19937_64 generator(seed);
  for (std::size_t end = 0; end < trace.references.size();) {
    end = std::min(trace.references.size(), end + 1 + generator() % longest);
    trace.request_ends.push_back(end);
  }
  return trace;
}

/// The stack itself.
std::vector<std::uint32_t> slow_distances(const traces::BlockTrace& trace) {
  std::list<Object> stack;
  std::vector<std::uint32_t> distances;
  const auto depth = [&](Object object) {
    const auto place = std::find(stack.begin(), stack.end(), object);
    return place == stack.end() ? 0 : static_cast<std::uint32_t>(std::distance(stack.begin(), place)) + 1;
  };
  std::vector<std::size_t> ends = trace.request_ends;
  for (std::size_t i = 1; ends.size() < trace.references.size() && trace.request_ends.empty(); ++i) ends.push_back(i);
  std::size_t first = 0;
  for (const std::size_t end : ends) {
    for (std::size_t i = first; i < end; ++i) distances.push_back(depth(trace.references[i]));
    for (; first < end; ++first) {
      stack.remove(trace.references[first]);
      stack.push_front(trace.references[first]);
    }
  }
  return distances;
}

std::vector<sim::Replacement> all_policies() { return sim::parse_replacements("all"); }

}  // namespace

TEST_CASE("stack distances are depths in the stack") {
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    // Few objects over a long trace: the line of moments is compacted many times.
    const traces::BlockTrace trace = zipf(seed, 20 + 100 * static_cast<std::uint32_t>(seed % 3), 3000);
    CHECK(sim::stack_distances(trace) == slow_distances(trace));
    const traces::BlockTrace requests = with_requests(trace, seed, 12);
    CHECK(sim::stack_distances(requests) == slow_distances(requests));
  }
}

TEST_CASE("one pass over all sizes gives what a replay of each gives") {
  for (const traces::BlockTrace& trace : {zipf(3, 500, 20000), with_requests(zipf(4, 500, 20000), 5, 40)}) {
    const std::vector<std::uint64_t> sizes = {1, 2, 3, 10, 63, 64, 65, 200, 499, 500, 501, 1000000};
    const auto lru = sim::parse_replacements("lru");
    const auto together = sim::hit_ratios(trace, lru, {.sizes = sizes, .threads = 1});
    REQUIRE(together.size() == sizes.size());
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const auto alone = sim::hit_ratios(trace, lru, {.sizes = {sizes[i]}, .threads = 1});
      CHECK(together[i].size == sizes[i]);
      CHECK(together[i].hits == alone.front().hits);
    }
    // Only first references miss; within a request an object may be asked for again before it came in.
    if (trace.request_ends.empty()) CHECK(together.back().hits == trace.references.size() - trace.objects);
  }
}

TEST_CASE("a request is looked up before its blocks come in") {
  traces::BlockTrace trace;
  trace.name = "requests";
  trace.references = {0, 1, 2, 2, 1, 0, 3, 3};
  trace.objects = 4;
  const auto lru = sim::parse_replacements("lru");
  // One by one, object 2 is found again at once; the others have left.
  CHECK(sim::hit_ratios(trace, lru, {.sizes = {2}, .threads = 1}).front().hits == 3);
  trace.request_ends = {3, 6, 8};
  // Before the second request 1 and 2 are resident, before the third 1 and 0; 3 is not found twice within a request.
  CHECK(sim::hit_ratios(trace, lru, {.sizes = {2}, .threads = 1}).front().hits == 2);
  CHECK(sim::hit_ratios(trace, lru, {.sizes = {1, 2}, .threads = 1})[1].hits == 2);
}

TEST_CASE("next references point at the next, or nowhere") {
  traces::BlockTrace trace;
  trace.references = {0, 1, 0, 2, 1, 0};
  trace.objects = 3;
  CHECK(sim::next_references(trace) == std::vector<std::uint32_t>{2, 4, 5, 0, 0, 0});
}

TEST_CASE("rows come in order, the same at any number of threads, and ratios are hits over references") {
  const traces::BlockTrace trace = with_requests(zipf(8, 300, 4000), 1, 5);
  const std::vector<std::uint64_t> sizes = {30, 10, 100};
  const auto one = sim::hit_ratios(trace, all_policies(), {.sizes = sizes, .threads = 1});
  const auto four = sim::hit_ratios(trace, all_policies(), {.sizes = sizes, .threads = 4});
  REQUIRE(one.size() == all_policies().size() * sizes.size());
  for (std::size_t i = 0; i < one.size(); ++i) {
    CHECK(one[i].policy == all_policies()[i / sizes.size()].text);
    CHECK(one[i].size == sizes[i % sizes.size()]);
    CHECK(one[i].references == 4000);
    CHECK(one[i].hit_ratio == static_cast<double>(one[i].hits) / 4000.0);
    CHECK(one[i].hits == four[i].hits);
    CHECK_FALSE(one[i].error.has_value());
  }
}

TEST_CASE("a sample of everything is exact") {
  traces::BlockTrace trace = zipf(9, 200, 3000);
  trace.sizes.assign(trace.references.size(), 7);
  for (const bool bytes : {false, true}) {
    const std::vector<std::uint64_t> sizes = {8, 50};
    const auto exact = sim::hit_ratios(trace, all_policies(), {.sizes = sizes, .bytes = bytes, .threads = 1});
    const auto all =
        sim::hit_ratios(trace, all_policies(), {.sizes = sizes, .bytes = bytes, .sample = 1.0, .threads = 1});
    for (std::size_t i = 0; i < exact.size(); ++i) {
      CHECK(all[i].hits == exact[i].hits);
      CHECK(all[i].error == 0.0);
    }
  }
}

TEST_CASE("sampled ratios lie within their error as often as they say") {
  const traces::BlockTrace trace = zipf(10, 20000, 200000);
  const std::vector<std::uint64_t> sizes = {500, 2000, 8000};
  const auto policies = sim::parse_replacements("lru,sieve,arc");
  const auto exact = sim::hit_ratios(trace, policies, {.sizes = sizes, .threads = 1});
  int within = 0;
  int total = 0;
  double largest_error = 0;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const auto sampled = sim::hit_ratios(trace, policies, {.sizes = sizes, .sample = 0.1, .seed = seed, .threads = 1});
    for (std::size_t i = 0; i < exact.size(); ++i) {
      ++total;
      within += std::abs(sampled[i].hit_ratio - exact[i].hit_ratio) <= *sampled[i].error ? 1 : 0;
      largest_error = std::max(largest_error, *sampled[i].error);
    }
  }
  // 95 % of 180, of which the nine of a seed depend on each other; the generator is fixed, so this does not vary.
  CHECK(within >= total * 85 / 100);
  CHECK(largest_error < 0.1);
}

TEST_CASE("what cannot be answered is refused") {
  traces::BlockTrace trace = zipf(1, 10, 100);
  const auto lru = sim::parse_replacements("lru");
  CHECK_THROWS_AS(sim::hit_ratios(trace, lru, {.sizes = {0}}), Error);
  CHECK_THROWS_AS(sim::hit_ratios(trace, lru, {.sizes = {sim::largest_cache + 1}}), Error);
  CHECK_THROWS_WITH(sim::hit_ratios(trace, lru, {.sizes = {5}, .bytes = true}), Contains("no sizes"));
  for (const double share : {0.0, -0.5, 1.5, std::nan("")}) {
    CHECK_THROWS_AS(sim::hit_ratios(trace, lru, {.sizes = {5}, .sample = share}), Error);
  }
  CHECK_THROWS_WITH(sim::hit_ratios(trace, lru, {.sizes = {5}, .sample = 0.01}), Contains("larger share"));
}

// Does advancing unchanged batches at once give what steps one by one give, to the nanosecond and the block?
#include <catch2/catch.hpp>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "tests/support/random_serving.h"
#include "tests/support/serving_double.h"

using namespace evictsim;
using namespace evictsim::tests;

namespace {

/// Everything that is promised to be equal, in words that Catch can print.
std::vector<std::string> told(const sim::ServingResult& result) {
  std::vector<std::string> lines;
  const auto line = [&](std::initializer_list<std::int64_t> values) {
    std::string text;
    for (const std::int64_t value : values) text += std::to_string(value) + " ";
    lines.push_back(text);
  };
  for (const sim::RequestRecord& r : result.requests) {
    line({r.arrival, r.queued, r.scheduled, r.first_token, r.finish, r.generated_tokens, r.cached_tokens,
          r.loaded_tokens, r.computed_tokens, r.preemptions, r.replica, r.decode_replica,
          static_cast<std::int64_t>(r.status)});
  }
  for (const sim::ReplicaTotals& r : result.replicas) {
    line({r.peak_used_blocks, r.steps, r.step_sequences, r.computed_tokens, r.preemptions, r.queried_tokens,
          r.cached_tokens, r.evicted_blocks, r.swapped_bytes, r.busy});
    for (const sim::KvTierTotals& t : r.tiers) {
      line({t.loaded_tokens, t.peak_bytes, t.up_bytes, t.down_bytes, t.up_busy, t.down_busy});
    }
  }
  for (const sim::ServingSample& s : result.series) {
    line({s.time, s.used_blocks, s.running, s.waiting, s.tier_bytes[0], s.tier_bytes[1], s.tier_bytes[2]});
  }
  line({result.sample_period, result.end, result.running.seconds, result.running.nanoseconds, result.waiting.seconds,
        result.waiting.nanoseconds, static_cast<std::int64_t>(result.transferred_bytes), result.completed,
        result.refused});
  return lines;
}

}  // namespace

TEST_CASE("closed form and step by step agree in every field on random systems and workloads") {
  std::int64_t changes = 0, changes_by_step = 0, preemptions = 0, cached = 0, evicted = 0, unfinished = 0;
  std::int64_t loaded = 0, loaded_from_below = 0, swapped = 0;
  for (std::uint32_t seed = 0; seed < 900; ++seed) {
    RandomServing random(seed);
    sim::ServingOptions options = random.options();
    const RequestLists lists = random.requests();
    ListSource source(lists), same(lists);
    const sim::ServingResult result = sim::serve(options, source);
    options.step_by_step = true;
    options.check_every_change = true;
    const sim::ServingResult reference = sim::serve(options, same);
    CAPTURE(seed);
    const auto lines = told(result), expected = told(reference);
    REQUIRE(lines.size() == expected.size());
    for (std::size_t i = 0; i < lines.size(); ++i) {
      CAPTURE(i);
      REQUIRE(lines[i] == expected[i]);
    }
    changes += result.changes;
    changes_by_step += reference.changes;
    for (const sim::ReplicaTotals& totals : result.replicas) {
      preemptions += totals.preemptions;
      cached += totals.cached_tokens;
      evicted += totals.evicted_blocks;
      swapped += totals.swapped_bytes > 0 ? 1 : 0;
      for (std::size_t tier = 0; tier < totals.tiers.size(); ++tier) {
        (tier == 0 ? loaded : loaded_from_below) += totals.tiers[tier].loaded_tokens;
      }
    }
    for (const sim::RequestRecord& record : result.requests) {
      unfinished += record.status == sim::RequestStatus::unfinished ? 1 : 0;
    }
  }
  // The cases are worth their time only if they reach what is hard.
  CHECK(changes < changes_by_step / 2);
  CHECK(preemptions > 1000);
  CHECK(cached > 1000);
  CHECK(evicted > 1000);
  CHECK(unfinished > 100);
  CHECK(loaded > 1000);
  CHECK(loaded_from_below > 100);
  CHECK(swapped > 20);
}

TEST_CASE("the same inputs give the same results") {
  for (std::uint32_t seed = 1000; seed < 1050; ++seed) {
    RandomServing random(seed);
    const sim::ServingOptions options = random.options();
    const RequestLists lists = random.requests();
    ListSource once(lists), twice(lists);
    CAPTURE(seed);
    CHECK(told(sim::serve(options, once)) == told(sim::serve(options, twice)));
  }
}

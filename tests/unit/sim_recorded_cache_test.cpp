// Are recorded sequences served step by step as they were: blocks, reads, recalls, demotions, and their sums?
#include <catch2/catch.hpp>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "sim/serving/profiled_cache.h"
#include "sim/serving/workload_source.h"
#include "tests/support/serving_double.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::tests;

namespace {

sim::ServingOptions options(std::int64_t blocks, std::int64_t tier_bytes) {
  sim::ServingOptions options;
  auto cost = milliseconds_per_step(10);
  cost->per_entry = femtoseconds_per_millisecond;
  options.replicas.step_cost = cost;
  options.replicas.resident = sim::full_recorded_cache();
  options.replicas.blocks = blocks;
  options.replicas.block_tokens = 4;
  options.replicas.token_budget = 100;
  options.kv_bytes_per_token = 1000;
  options.prefix_cache = false;
  options.check_every_change = true;
  if (tier_bytes > 0) {
    sim::TierOptions host{.name = "host", .capacity_bytes = tier_bytes};
    host.link.up = host.link.down = {.bytes_per_second = 1'000'000, .latency = 0};
    options.tiers = sim::KvTiers{.tiers = {host}};
  }
  return options;
}

sim::RecordedWorkload workload_of(const std::vector<sim::RecordedSequence>& sequences) {
  sim::RecordedWorkload workload;
  for (const sim::RecordedSequence& sequence : sequences) {
    workload.requests.push_back({sequence.prompt, sequence.output(), sim::recorded_cache(sequence)});
  }
  return workload;
}

sim::ServingResult serve(const sim::ServingOptions& options, const sim::RecordedWorkload& recorded,
                         sim::Load load = {}) {
  sim::ServingWorkload workload;
  workload.recorded = std::make_shared<sim::RecordedWorkload>(recorded);
  return sim::serve(options, *workload.source(load));
}

}  // namespace

TEST_CASE("one sequence alone: every step takes its reads and its recall") {
  sim::RecordedSequence sequence{.name = "one", .prompt = 8, .written = {3000, 0}};
  sequence.steps = {{.attended = 5, .held = 5},
                    {.attended = 6, .held = 6, .also_read = 0.5, .recalled = {2000, 0}},
                    {.attended = 3, .held = 3, .written = {500, 0}}};
  const sim::ServingResult result = serve(options(2, 10'000), workload_of({sequence}));
  // Prompt 10 ms; 10 + 5; 2 ms of recall and 10 + 6.5; 10 + 3.
  CHECK(result.requests.at(0).first_token == 10 * ms);
  CHECK(result.requests.at(0).finish == (10 + 15) * ms + 18 * ms + ms / 2 + 13 * ms);
  CHECK(result.requests.at(0).generated_tokens == 4);
  const sim::ReplicaTotals& totals = result.replicas.at(0);
  CHECK(totals.recalled_bytes == 2000);
  CHECK(totals.demoted_bytes == 3500);
  CHECK(totals.tiers.at(0).peak_bytes == 3500);
  CHECK(totals.tiers.at(0).up_bytes == 2000);
  CHECK(totals.tiers.at(0).down_bytes == 3500);
}

TEST_CASE("two sequences contend for the link and for memory") {
  sim::RecordedSequence sequence{.name = "one", .prompt = 8};
  sequence.steps = {{.attended = 4, .held = 4, .recalled = {2000, 0}}};
  // Both recall at once: 4 ms; then 10 ms and 4 entries each.
  const sim::ServingResult both = serve(options(4, 1), workload_of({sequence, sequence}));
  CHECK(both.requests.at(1).finish == (10 + 4 + 18) * ms);
  // Two blocks are the prompt of one. After its cut it holds one block, and the other's prompt waits until it is done.
  const sim::ServingResult turns = serve(options(2, 1), workload_of({sequence, sequence}));
  CHECK(turns.requests.at(0).finish == (10 + 2 + 14) * ms);
  CHECK(turns.requests.at(1).scheduled == 26 * ms);
}

TEST_CASE("repeated, at a rate, and without room in the tier") {
  sim::RecordedSequence sequence{.name = "one", .prompt = 8, .written = {3000, 0}};
  sequence.steps = {{.attended = 4, .held = 4}};
  sim::Load load;
  load.requests = 5;
  load.rate = 10;
  const sim::ServingResult result = serve(options(4, 10'000), workload_of({sequence, sequence}), load);
  CHECK(result.completed == 5);
  CHECK(result.requests.at(3).arrival == 300 * ms);
  CHECK(result.replicas.at(0).demoted_bytes == 15'000);
  CHECK_THROWS_AS(serve(options(4, 2'999), workload_of({sequence})), Error);
  CHECK_THROWS_AS(serve(options(4, 0), workload_of({sequence})), Error);
  sequence.steps[0].recalled = {-1, 0};
  CHECK_THROWS_AS(sim::recorded_cache(sequence), Error);
}

TEST_CASE("a profile and the sequence that it describes agree to the nanosecond") {
  // A window of 16 entries, cut after the prompt and held in decode; then half of the prompt, growing.
  sim::CacheProfile window{.policy = "window", .budget = "16", .in_entries = true};
  window.heads = {{16, 2}};
  window.kv_heads = 2;
  window.level = 16;
  window.growth = 0;
  sim::CacheProfile half{.policy = "half", .budget = "0.5"};
  half.heads = {{0.5, 2}};
  half.kv_heads = 2;
  for (const sim::CacheProfile& profile : {window, half}) {
    CAPTURE(profile.policy);
    const auto cache = sim::profiled_cache(profile, 0);
    REQUIRE(cache);
    sim::RecordedWorkload recorded, profiled;
    for (const std::int64_t prompt : {40, 64, 21}) {
      sim::RecordedSequence sequence{.name = "made up", .prompt = prompt};
      for (std::int64_t context = prompt + 1; context <= prompt + 50; ++context) {
        const double entries =
            static_cast<double>(cache->reads(prompt, context).units) / static_cast<double>(cache->units_per_entry());
        sequence.steps.push_back({.attended = entries, .held = entries});
      }
      recorded.requests.push_back({prompt, sequence.output(), sim::recorded_cache(sequence)});
      profiled.requests.push_back({prompt, sequence.output(), nullptr});
    }
    sim::ServingOptions of_profile = options(30, 0);
    of_profile.replicas.resident = cache;
    const sim::ServingResult exact = serve(options(30, 0), recorded), average = serve(of_profile, profiled);
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(exact.requests[i].first_token == average.requests[i].first_token);
      CHECK(exact.requests[i].finish == average.requests[i].finish);
    }
    CHECK(exact.replicas[0].peak_used_blocks == average.replicas[0].peak_used_blocks);
  }
}

TEST_CASE("step by step and at once agree, and bytes are those of the sequences, on random ones") {
  std::mt19937 random(7);
  const auto number = [&](int least, int most) { return std::uniform_int_distribution<int>(least, most)(random); };
  for (int seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    std::vector<sim::RecordedSequence> sequences;
    std::int64_t recalled = 0, written = 0;
    for (int i = number(1, 6); i > 0; --i) {
      sim::RecordedSequence sequence{.name = "random", .prompt = number(1, 30)};
      sequence.written = {number(0, 3) * 1000, number(0, 1) * 500};
      written += sequence.written[0] + sequence.written[1];
      double entries = number(1, static_cast<int>(sequence.prompt));
      const bool moves = number(0, 1) == 1;
      for (int step = number(0, 60); step > 0; --step) {
        entries = number(1, 8) == 1 ? std::max(1.0, entries - number(0, 9)) : entries + 1;
        sim::RecordedStep made{.attended = entries, .held = entries};
        if (moves && number(1, 10) == 1) made.recalled = {number(1, 900), number(0, 90)};
        if (moves && number(1, 10) == 1) made.written = {number(0, 900), number(0, 90)};
        recalled += made.recalled[0] + made.recalled[1];
        written += made.written[0] + made.written[1];
        sequence.steps.push_back(made);
      }
      if (sequence.steps.empty()) written -= sequence.written[0] + sequence.written[1];
      sequences.push_back(sequence);
    }
    sim::ServingOptions random_options = options(25, 1'000'000);
    if (number(0, 1) == 1) random_options.preemption = sim::Preemption::swap;
    sim::Load load;
    if (number(0, 1) == 1) load.rate = 20;
    const sim::RecordedWorkload workload = workload_of(sequences);
    const sim::ServingResult fast = serve(random_options, workload, load);
    random_options.step_by_step = true;
    const sim::ServingResult slow = serve(random_options, workload, load);
    REQUIRE(fast.requests.size() == slow.requests.size());
    std::int64_t preemptions = 0;
    for (std::size_t i = 0; i < fast.requests.size(); ++i) {
      CHECK(fast.requests[i].finish == slow.requests[i].finish);
      preemptions += fast.requests[i].preemptions;
    }
    const sim::ReplicaTotals &totals = fast.replicas.at(0), &same = slow.replicas.at(0);
    CHECK(totals.tiers == same.tiers);
    CHECK(totals.recalled_bytes == same.recalled_bytes);
    CHECK(fast.completed == static_cast<std::int64_t>(sequences.size()));
    if (preemptions > 0) continue;  // a step that is computed again with the prompt recalls nothing
    CHECK(totals.recalled_bytes == recalled);
    CHECK(totals.demoted_bytes == written);
  }
}

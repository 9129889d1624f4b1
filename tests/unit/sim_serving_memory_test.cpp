// Do preemption, swapping, shared prefixes and evicting caches use memory as worked out by hand?
#include <catch2/catch.hpp>
#include <cstdint>
#include <memory>
#include <vector>

#include "tests/support/random_serving.h"
#include "tests/support/serving_double.h"

using namespace evictsim;
using namespace evictsim::tests;
using sim::RequestStatus;
using sim::Time;

namespace {

/// Steps of 10 ms, `blocks` blocks of 4 tokens.
sim::ServingOptions scarce(std::int64_t blocks) {
  sim::ServingOptions options;
  options.replicas.step_cost = milliseconds_per_step(10);
  options.replicas.blocks = blocks;
  options.replicas.block_tokens = 4;
  options.replicas.token_budget = 100;
  options.prefix_cache = false;
  options.check_every_change = true;
  return options;
}

/// Both hold 2 blocks when the first one needs its third, at 50 ms, after 5 tokens each.
const std::vector<traces::WorkloadRequest> two_that_meet = {request(0, 4, 9), request(0, 4, 9)};

/// For swaps: 1 MB/s and 1 ms, both ways.
sim::KvTiers host_tier(std::int64_t bytes) {
  sim::TierOptions host{.name = "host", .capacity_bytes = bytes};
  host.link.up = host.link.down = {.bytes_per_second = 1'000'000, .latency = 1 * ms};
  sim::KvTiers tiers;
  tiers.tiers = {host};
  return tiers;
}

traces::WorkloadRequest named(double arrival, std::int64_t prompt, std::int64_t output,
                              std::vector<std::uint64_t> names, int tokens) {
  traces::WorkloadRequest made = request(arrival, prompt, output);
  made.prefix_blocks = std::move(names);
  made.prefix_block_tokens = tokens;
  return made;
}

}  // namespace

TEST_CASE("out of blocks the last running request is preempted, and computed again when there is room") {
  const sim::ServingResult result = serve(scarce(4), two_that_meet);
  const sim::RequestRecord &first = result.requests.at(0), &second = result.requests.at(1);
  CHECK(first.finish == 90 * ms);
  CHECK(first.preemptions == 0);
  // 9 known tokens need 3 blocks, and only 1 is free until the first one leaves; then one step, and 3 more tokens.
  CHECK(second.first_token == 10 * ms);
  CHECK(second.preemptions == 1);
  CHECK(second.finish == 130 * ms);
  CHECK(second.computed_tokens == 8 + 9 + 3);
  CHECK(result.replicas.at(0).preemptions == 1);
  CHECK(result.replicas.at(0).peak_used_blocks == 4);
}

TEST_CASE("a preempted request finds its own blocks that nobody took") {
  sim::ServingOptions options = scarce(4);
  options.prefix_cache = true;
  const sim::ServingResult result = serve(options, two_that_meet);
  // Its second block was freed first and taken by the other; its first one is still there.
  const sim::RequestRecord& second = result.requests.at(1);
  CHECK(second.finish == 130 * ms);
  CHECK(second.computed_tokens == 8 + 5 + 3);
  CHECK(second.cached_tokens == 0);
  // What it finds again is no hit of the workload.
  CHECK(result.replicas.at(0).cached_tokens == 0);
  CHECK(result.replicas.at(0).queried_tokens == 4 + 4);
  CHECK(result.replicas.at(0).evicted_blocks == 1);
}

TEST_CASE("nobody is admitted in the step of a preemption, even if there were room") {
  // The first one needs a block at 50 ms; the third has arrived at 45 ms and would fit into what the second leaves.
  std::vector<traces::WorkloadRequest> requests = two_that_meet;
  requests.push_back(request(0.045, 4, 1));
  const sim::ServingResult result = serve(scarce(4), requests);
  // Nor later: the preempted one is at the head of the queue, and its 9 tokens do not fit before 90 ms.
  CHECK(result.requests.at(1).finish == 130 * ms);
  CHECK(result.requests.at(2).scheduled == 90 * ms);
}

TEST_CASE("swapping copies the cache to the host and back, and computes nothing again") {
  sim::ServingOptions options = scarce(4);
  options.preemption = sim::Preemption::swap;
  options.kv_bytes_per_token = 1000;
  options.tiers = host_tier(8000);
  const sim::ServingResult result = serve(options, two_that_meet);
  // 8 tokens take 9 ms each way. The step waits for the way out; nobody but the request for the way back.
  CHECK(result.requests.at(0).finish == 99 * ms);
  CHECK(result.requests.at(1).finish == 148 * ms);
  CHECK(result.requests.at(1).computed_tokens == 12);
  CHECK(result.replicas.at(0).swapped_bytes == 16'000);
  CHECK(result.replicas.at(0).tiers.at(0).peak_bytes == 8000);
  CHECK(result.replicas.at(0).tiers.at(0).up_busy == 8 * ms);

  options.tiers->tiers.front().capacity_bytes = 7999;
  const sim::ServingResult full = serve(options, two_that_meet);
  CHECK(full.requests.at(1).finish == 130 * ms);
  CHECK(full.replicas.at(0).swapped_bytes == 0);
}

TEST_CASE("reserving the full prompt waits for room instead of starting what must be preempted") {
  sim::ServingOptions options = scarce(4);
  options.replicas.token_budget = 9;
  const std::vector<traces::WorkloadRequest> requests = {request(0, 6, 3), request(0.001, 12, 1)};
  const sim::RequestRecord reserved = serve(options, requests).requests.at(1);
  CHECK(reserved.scheduled == 30 * ms);
  CHECK(reserved.finish == 50 * ms);
  CHECK(reserved.preemptions == 0);
  options.reserve_full_prompt = false;
  const sim::RequestRecord eager = serve(options, requests).requests.at(1);
  CHECK(eager.scheduled == 10 * ms);
  CHECK(eager.finish == 50 * ms);
  CHECK(eager.preemptions == 1);
}

TEST_CASE("a request that can never fit is refused when it arrives; the longest that fits is served") {
  // Four blocks of four: a prompt of 10 and 7 tokens, the last of which is never stored.
  const sim::ServingResult result = serve(scarce(4), {request(0, 10, 7), request(0.001, 10, 8), request(0.002, 17, 1)});
  CHECK(result.requests.at(0).status == RequestStatus::completed);
  CHECK(result.requests.at(1).status == RequestStatus::too_long);
  CHECK(result.requests.at(1).finish == 1 * ms);
  CHECK(result.requests.at(1).generated_tokens == 0);
  CHECK(result.requests.at(2).status == RequestStatus::too_long);
}

TEST_CASE("full blocks of a prefix are found again, but the last token is computed") {
  sim::ServingOptions options = scarce(100);
  options.prefix_cache = true;
  auto cost = milliseconds_per_step(10);
  cost->per_prefill_token = femtoseconds_per_millisecond;
  options.replicas.step_cost = cost;
  SECTION("names of one block each") {
    const sim::ServingResult result =
        serve(options, {named(0, 12, 1, {1, 2, 3}, 4), named(0.025, 12, 1, {1, 2, 3}, 4)});
    CHECK(result.requests.at(0).finish == 22 * ms);
    CHECK(result.requests.at(1).cached_tokens == 8);
    CHECK(result.requests.at(1).finish == 39 * ms);
    CHECK(result.replicas.at(0).queried_tokens == 24);
    CHECK(result.replicas.at(0).cached_tokens == 8);
  }
  SECTION("names of two blocks each, of which the second differs") {
    const sim::ServingResult result = serve(options, {named(0, 16, 1, {1, 2}, 8), named(0.1, 16, 1, {1, 3}, 8)});
    CHECK(result.requests.at(1).cached_tokens == 8);
  }
  SECTION("names of half a block each: the block is known by its last one") {
    const sim::ServingResult result =
        serve(options, {named(0, 9, 1, {1, 2, 3, 4}, 2), named(0.1, 9, 1, {1, 2, 3, 5}, 2)});
    CHECK(result.requests.at(1).cached_tokens == 4);
  }
  SECTION("names that go on into the output: the next turn finds the answer") {
    const sim::ServingResult result =
        serve(options, {named(0, 8, 5, {1, 2, 3}, 4), named(0.1, 16, 1, {1, 2, 3, 4}, 4)});
    CHECK(result.requests.at(1).cached_tokens == 12);
  }
  SECTION("a request in the same step shares what the one before it is about to compute") {
    const sim::ServingResult result = serve(options, {named(0, 12, 1, {1, 2, 3}, 4), named(0, 12, 1, {1, 2, 3}, 4)});
    CHECK(result.requests.at(1).cached_tokens == 8);
    CHECK(result.requests.at(1).finish == 26 * ms);
  }
  SECTION("without a prefix cache nothing is found") {
    options.prefix_cache = false;
    const sim::ServingResult result = serve(options, {named(0, 12, 1, {1, 2, 3}, 4), named(0.1, 12, 1, {1, 2, 3}, 4)});
    CHECK(result.requests.at(1).cached_tokens == 0);
    CHECK(result.replicas.at(0).queried_tokens == 0);
  }
}

TEST_CASE("an evicting cache frees memory for others and shortens reads") {
  // Drops half of a prompt when it is done: 16 tokens hold 4 blocks, and then 9 of 17 hold 3.
  sim::ServingOptions options = scarce(7);
  auto cache = std::make_shared<HalvingCache>();
  cache->window = 1000;
  auto cost = milliseconds_per_step(10);
  cost->per_entry = 2 * femtoseconds_per_millisecond;
  options.replicas.step_cost = cost;
  options.replicas.resident = cache;
  const sim::ServingResult result = serve(options, {request(0, 16, 3), request(0.001, 16, 1)});
  // Prompt 10 ms; then 3 of 7 blocks are held, and the other prompt fits into 4 beside it. Reads of 9 and 10 entries
  // take 18 and 20 ms, and scoring a little more than 1 ns.
  CHECK(result.requests.at(0).first_token == 10 * ms);
  CHECK(result.requests.at(1).scheduled == 10 * ms);
  CHECK(result.requests.at(1).finish == 38 * ms + 1);
  CHECK(result.requests.at(0).finish == 68 * ms + 2);
  CHECK(result.replicas.at(0).peak_used_blocks == 7);
}

TEST_CASE("a whole batch with an evicting cache has room for its prompts") {
  // 16 tokens hold 4 blocks while they are computed, and 9 to 11 of them 3 until the end: one at a time in 7 blocks.
  sim::ServingOptions options = scarce(7);
  options.batching = sim::Batching::whole_batch;
  options.replicas.max_sequences = 2;
  options.replicas.resident = std::make_shared<HalvingCache>();
  const sim::ServingResult result = serve(options, {request(0, 16, 3), request(0, 16, 3)});
  CHECK(result.requests.at(0).scheduled == 0);
  CHECK(result.requests.at(1).scheduled > result.requests.at(0).finish);
  CHECK(result.completed == 2);
  CHECK(result.replicas.at(0).peak_used_blocks == 4);
}

TEST_CASE("sliding windows: reads grow with the layers that read everything, exactly") {
  models::Llm llm;
  llm.layers.resize(2);
  for (models::LlmLayer& layer : llm.layers) {
    layer.attention.query_heads = layer.attention.kv_heads = 2;
    layer.attention.head_dim = layer.attention.value_head_dim = 8;
  }
  CHECK(sim::resident_cache(llm) == nullptr);
  llm.layers[1].attention.kind = models::AttentionKind::sliding;
  llm.layers[1].attention.window = 4;
  const auto cache = sim::resident_cache(llm);
  REQUIRE(cache != nullptr);
  const std::int64_t unit = cache->units_per_entry();
  for (std::int64_t context = 1; context < 40; ++context) {
    const sim::ReadSpan span = cache->reads(1, context);
    CHECK(2 * span.units == unit * (context + std::min<std::int64_t>(context, 4)));
    CHECK(span.until >= context);
    for (std::int64_t later = context; later <= std::min<std::int64_t>(span.until, 40); ++later) {
      CHECK(span.units + span.units_per_token * (later - context) == cache->reads(1, later).units);
      CHECK(cache->blocks(1, later, 4) >= cache->blocks(1, context, 4));
    }
  }
  // 16 and 4 tokens in two layers: half of 20 tokens in blocks of 4.
  CHECK(cache->blocks(1, 16, 4) == 3);
  CHECK(cache->blocks(1, 1, 4) == 1);
  // The layers have 21 and 1 + 2 + 3 + 4 + 4 + 4 pairs, and read 6 and 6 entries.
  CHECK(cache->chunk(0, 6).pairs == 20);
  CHECK(cache->chunk(0, 6).context == 6);
  // Two tokens on 18: 20 and 4 + 1 entries.
  CHECK(cache->chunk(18, 2).context == 13);
}

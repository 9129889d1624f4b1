// Does one replica schedule small cases as worked out by hand: joining, chunks, limits, whole batches, pipelines?
#include <catch2/catch.hpp>
#include <cstdint>
#include <vector>

#include "tests/support/serving_double.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::tests;
using sim::RequestStatus;
using sim::Time;

namespace {

/// Steps of 10 ms whatever they compute, blocks of 4 tokens, ample memory, no prefix cache.
sim::ServingOptions ten_milliseconds() {
  sim::ServingOptions options;
  options.replicas.step_cost = milliseconds_per_step(10);
  options.replicas.blocks = 1000;
  options.replicas.block_tokens = 4;
  options.replicas.token_budget = 100;
  options.prefix_cache = false;
  return options;
}

struct Steps final : sim::ServingObserver {
  std::vector<sim::StepsEvent> all;
  void steps(const sim::StepsEvent& event) override { all.push_back(event); }
};

}  // namespace

TEST_CASE("a request alone: its prompt in one step, then a step per token") {
  const sim::ServingResult result = serve(ten_milliseconds(), {request(0.005, 10, 3)});
  const sim::RequestRecord& record = result.requests.at(0);
  CHECK(record.arrival == 5 * ms);
  CHECK(record.scheduled == 5 * ms);
  CHECK(record.first_token == 15 * ms);
  CHECK(record.finish == 35 * ms);
  CHECK(record.computed_tokens == 12);
  CHECK(record.status == RequestStatus::completed);
  CHECK(result.end == 35 * ms);
  CHECK(result.replicas.at(0).busy == 30 * ms);
  CHECK(result.replicas.at(0).steps == 3);
  CHECK(result.replicas.at(0).peak_used_blocks == 3);
  CHECK(result.running == sim::CountTime{0, 30 * ms});
  CHECK(result.waiting == sim::CountTime{});
}

TEST_CASE("who arrives during a step joins at its end, also at that very instant") {
  for (const double arrival : {0.012, 0.020}) {
    const sim::ServingResult result = serve(ten_milliseconds(), {request(0, 4, 5), request(arrival, 4, 2)});
    CHECK(result.requests.at(0).finish == 50 * ms);
    CHECK(result.requests.at(1).scheduled == 20 * ms);
    CHECK(result.requests.at(1).first_token == 30 * ms);
    CHECK(result.requests.at(1).finish == 40 * ms);
  }
}

TEST_CASE("the cost per request comes before the queue and does not occupy the replica") {
  sim::ServingOptions options = ten_milliseconds();
  auto cost = milliseconds_per_step(10);
  cost->request = 7 * femtoseconds_per_millisecond;
  options.replicas.step_cost = cost;
  const sim::ServingResult result = serve(options, {request(0, 4, 1), request(0.001, 4, 1)});
  CHECK(result.requests.at(0).queued == 7 * ms);
  CHECK(result.requests.at(0).finish == 17 * ms);
  CHECK(result.requests.at(1).queued == 8 * ms);
  CHECK(result.requests.at(1).finish == 27 * ms);
}

TEST_CASE("step times are sums to the femtosecond, rounded down only when they are told") {
  sim::ServingOptions options = ten_milliseconds();
  auto cost = milliseconds_per_step(0);
  cost->step = 1'600'000;  // 1.6 ns
  cost->per_entry = 300'000;
  options.replicas.step_cost = cost;
  // Prompt: 1.6 ns. Decode with 3, 4 and 5 entries: 2.5, 2.8 and 3.1 ns; in all 10.0 ns.
  const sim::ServingResult result = serve(options, {request(0, 2, 4)});
  CHECK(result.requests.at(0).first_token == 1);
  CHECK(result.requests.at(0).finish == 10);
}

TEST_CASE("a prompt beyond the budget is computed in chunks beside those who decode") {
  sim::ServingOptions options = ten_milliseconds();
  options.replicas.token_budget = 8;
  Steps steps;
  options.observer = &steps;
  const sim::ServingResult result = serve(options, {request(0, 4, 6), request(0.005, 20, 2)});
  // The first one decodes with 1 token of the budget; 7 + 7 + 6 are left for the second.
  CHECK(result.requests.at(1).scheduled == 10 * ms);
  CHECK(result.requests.at(1).first_token == 40 * ms);
  CHECK(result.requests.at(1).finish == 50 * ms);
  CHECK(result.requests.at(0).finish == 60 * ms);
  REQUIRE(steps.all.size() == 6);
  const models::StepWork& second_chunk = steps.all[2].first;
  CHECK(second_chunk.decode_sequences == 1);
  CHECK(second_chunk.decode_entries == 6);
  CHECK(second_chunk.prefill_sequences == 1);
  CHECK(second_chunk.prefill_tokens == 7);
  CHECK(second_chunk.prefill_context == 14);
  CHECK(second_chunk.prefill_pairs == 7 * 7 + 28);
}

TEST_CASE("steps of an unchanged batch are one change") {
  Steps steps;
  sim::ServingOptions options = ten_milliseconds();
  options.observer = &steps;
  const sim::ServingResult result = serve(options, {request(0, 4, 1001)});
  REQUIRE(steps.all.size() == 2);
  CHECK(steps.all[1].steps == 1000);
  CHECK(steps.all[1].begin == 10 * ms);
  CHECK(steps.all[1].end == 10'010 * ms);
  CHECK(result.replicas.at(0).steps == 1001);
}

TEST_CASE("without chunks a prompt waits for a step that holds it whole, and one above the budget is refused") {
  sim::ServingOptions options = ten_milliseconds();
  options.replicas.token_budget = 8;
  options.chunked_prefill = false;
  const sim::ServingResult result = serve(options, {request(0, 5, 3), request(0, 8, 1), request(0.001, 9, 1)});
  // Beside the first one's 5 tokens, then 1, there is no room for 8; alone there is.
  CHECK(result.requests.at(0).finish == 30 * ms);
  CHECK(result.requests.at(1).scheduled == 30 * ms);
  CHECK(result.requests.at(1).finish == 40 * ms);
  CHECK(result.requests.at(2).status == RequestStatus::too_long);
  CHECK(result.requests.at(2).finish == 1 * ms);
  CHECK(result.refused == 1);
}

TEST_CASE("a full batch admits nobody") {
  sim::ServingOptions options = ten_milliseconds();
  options.replicas.max_sequences = 2;
  const sim::ServingResult result = serve(options, {request(0, 4, 2), request(0, 4, 3), request(0, 4, 1)});
  CHECK(result.requests.at(2).scheduled == 20 * ms);
  CHECK(result.requests.at(2).finish == 30 * ms);
}

TEST_CASE("more sequences than tokens in the budget: the first ones decode, the others hold their place") {
  sim::ServingOptions options = ten_milliseconds();
  options.replicas.token_budget = 2;
  const sim::ServingResult result = serve(options, {request(0, 1, 3), request(0, 1, 5), request(0, 1, 2)});
  CHECK(result.requests.at(0).finish == 30 * ms);
  CHECK(result.requests.at(2).scheduled == 30 * ms);
  CHECK(result.requests.at(1).finish == 50 * ms);
  CHECK(result.requests.at(2).finish == 50 * ms);
}

TEST_CASE("whole batches: collected, run to their last token, holding all their memory") {
  sim::ServingOptions options = ten_milliseconds();
  options.batching = sim::Batching::whole_batch;
  options.batch_wait = 100 * ms;
  options.replicas.max_sequences = 2;
  options.sample_period = 5 * ms;
  const sim::ServingResult result = serve(options, {request(0, 4, 4), request(0.020, 4, 2), request(0.030, 4, 1)});
  CHECK(result.requests.at(0).scheduled == 20 * ms);
  CHECK(result.requests.at(0).finish == 60 * ms);
  CHECK(result.requests.at(1).first_token == 30 * ms);
  CHECK(result.requests.at(1).finish == 40 * ms);
  // Not full, so it waits for 100 ms from its arrival.
  CHECK(result.requests.at(2).scheduled == 130 * ms);
  CHECK(result.requests.at(2).finish == 140 * ms);
  // 7 and 5 tokens at their longest, in blocks of 4, also while only the first one still runs.
  CHECK(result.series.at(9).time == 45 * ms);
  CHECK(result.series.at(9).used_blocks == 4);
  CHECK(result.series.at(9).running == 1);
}

TEST_CASE("two stages of a pipeline work on two microbatches") {
  sim::ServingOptions options = ten_milliseconds();
  options.replicas.pipeline_stages = 2;
  const sim::ServingResult result = serve(options, {request(0, 1, 3), request(0, 1, 3)});
  // 5 ms per stage: the second follows the first by 5 ms, and neither waits for the other afterwards.
  CHECK(result.requests.at(0).first_token == 10 * ms);
  CHECK(result.requests.at(0).finish == 30 * ms);
  CHECK(result.requests.at(1).first_token == 15 * ms);
  CHECK(result.requests.at(1).finish == 35 * ms);
  CHECK(result.replicas.at(0).busy == 35 * ms);
}

TEST_CASE("at the limit everything stops, and who is not done keeps what was generated") {
  for (const bool step_by_step : {false, true}) {
    sim::ServingOptions options = ten_milliseconds();
    options.limit = 44 * ms;
    options.step_by_step = step_by_step;
    const sim::ServingResult result = serve(options, {request(0, 4, 100), request(0.050, 4, 1)});
    REQUIRE(result.requests.size() == 1);
    CHECK(result.requests.at(0).status == RequestStatus::unfinished);
    CHECK(result.requests.at(0).generated_tokens == 4);
    CHECK(result.requests.at(0).finish == sim::not_yet);
    CHECK(result.end == 44 * ms);
    CHECK(result.replicas.at(0).steps == 4);
    CHECK(result.replicas.at(0).busy == 44 * ms);
  }
}

TEST_CASE("a finished request can bring about the next one") {
  ListSource source({{request(0, 4, 1)}, {request(0.003, 4, 1), request(0, 4, 1)}});
  const sim::ServingResult result = sim::serve(ten_milliseconds(), source);
  REQUIRE(result.requests.size() == 3);
  CHECK(result.requests.at(1).arrival == 13 * ms);
  CHECK(result.requests.at(1).finish == 23 * ms);
  CHECK(result.requests.at(2).arrival == 23 * ms);
  CHECK(result.requests.at(2).finish == 33 * ms);
}

TEST_CASE("hostile requests and options are refused with one line") {
  const auto code = [](const sim::ServingOptions& options, std::vector<traces::WorkloadRequest> requests) {
    try {
      static_cast<void>(serve(options, std::move(requests)));
    } catch (const Error& error) {
      CHECK(std::string(error.what()).find('\n') == std::string::npos);
      return error.code();
    }
    return ErrorCode::interrupted;
  };
  const sim::ServingOptions good = ten_milliseconds();
  CHECK(code(good, {request(1, 1, 1), request(0.5, 1, 1)}) == ErrorCode::invalid_argument);
  CHECK(code(good, {request(0, 0, 1)}) == ErrorCode::invalid_argument);
  CHECK(code(good, {request(0, 1, 0)}) == ErrorCode::invalid_argument);
  CHECK(code(good, {request(0, std::int64_t{1} << 40U, 1)}) == ErrorCode::invalid_argument);
  CHECK(code(good, {request(-1, 1, 1)}) == ErrorCode::invalid_argument);
  CHECK(code(good, {request(9e9, 1, 1)}) == ErrorCode::invalid_argument);
  sim::ServingOptions few = good;
  few.most_requests = 1;
  CHECK(code(few, {request(0, 1, 1), request(0, 1, 1)}) == ErrorCode::invalid_argument);
  sim::ServingOptions slow = good;
  slow.replicas.step_cost = milliseconds_per_step(3'600'000);
  CHECK(code(slow, {request(0, 1, 1)}) == ErrorCode::invalid_argument);
  const auto damaged = [&](auto damage) {
    sim::ServingOptions options = good;
    damage(options);
    return code(options, {request(0, 1, 1)});
  };
  CHECK(damaged([](auto& o) { o.replicas.step_cost = nullptr; }) == ErrorCode::invalid_argument);
  CHECK(damaged([](auto& o) { o.replicas.replicas = 0; }) == ErrorCode::invalid_argument);
  CHECK(damaged([](auto& o) { o.replicas.blocks = 0; }) == ErrorCode::invalid_argument);
  CHECK(damaged([](auto& o) { o.replicas.blocks = std::int64_t{1} << 40U; }) == ErrorCode::invalid_argument);
  CHECK(damaged([](auto& o) { o.replicas.block_tokens = 0; }) == ErrorCode::invalid_argument);
  CHECK(damaged([](auto& o) { o.replicas.token_budget = 0; }) == ErrorCode::invalid_argument);
  CHECK(damaged([](auto& o) { o.replicas.max_sequences = -1; }) == ErrorCode::invalid_argument);
  CHECK(damaged([](auto& o) { o.replicas.pipeline_stages = 0; }) == ErrorCode::invalid_argument);
  CHECK(damaged([](auto& o) { o.sample_period = 0; }) == ErrorCode::invalid_argument);
  CHECK(damaged([](auto& o) { o.limit = -1; }) == ErrorCode::invalid_argument);
  CHECK(damaged([](auto& o) { o.preemption = sim::Preemption::swap; }) == ErrorCode::invalid_argument);
  CHECK(damaged([](auto& o) {
          o.disaggregation = sim::Disaggregation{o.replicas, {}};
        }) == ErrorCode::invalid_argument);
  CHECK(damaged([](auto& o) {
          o.batching = sim::Batching::whole_batch;
          o.replicas.pipeline_stages = 2;
        }) == ErrorCode::unsupported);
}

// Do routing and disaggregation send requests and caches where, and when, they should?
#include <catch2/catch.hpp>
#include <cstdint>
#include <vector>

#include "tests/support/serving_double.h"

using namespace evictsim;
using namespace evictsim::tests;
using sim::Time;

namespace {

sim::ServingOptions replicas(int count, sim::Routing routing) {
  sim::ServingOptions options;
  options.replicas.step_cost = milliseconds_per_step(10);
  options.replicas.blocks = 100;
  options.replicas.block_tokens = 4;
  options.replicas.replicas = count;
  options.routing = routing;
  return options;
}

std::vector<int> chosen(const sim::ServingResult& result) {
  std::vector<int> replicas;
  for (const sim::RequestRecord& record : result.requests) replicas.push_back(record.replica);
  return replicas;
}

traces::WorkloadRequest with_prefix(double arrival, std::uint64_t name, std::int64_t output) {
  traces::WorkloadRequest made = request(arrival, 9, output);
  made.prefix_blocks = {name, name + 1};
  made.prefix_block_tokens = 4;
  return made;
}

/// One prefill and one decode replica; a token is 1 ms on the link, and a copy starts with 2 ms.
sim::ServingOptions disaggregated() {
  sim::ServingOptions options = replicas(1, sim::Routing::round_robin);
  options.kv_bytes_per_token = 1000;
  options.disaggregation = sim::Disaggregation{options.replicas, {2 * ms, 1e6}};
  return options;
}

}  // namespace

TEST_CASE("round robin takes turns") {
  const auto requests = {request(0, 4, 9), request(0, 4, 1), request(0.1, 4, 1), request(0.2, 4, 1)};
  CHECK(chosen(serve(replicas(3, sim::Routing::round_robin), requests)) == std::vector<int>{0, 1, 2, 0});
}

TEST_CASE("least loaded looks at who is not done") {
  // At 50 ms the long one still runs on replica 0, and at 100 ms nobody runs.
  const auto requests = {request(0, 4, 9), request(0, 4, 1), request(0.05, 4, 1), request(0.051, 4, 1),
                         request(0.1, 4, 1)};
  CHECK(chosen(serve(replicas(2, sim::Routing::least_loaded), requests)) == std::vector<int>{0, 1, 1, 0, 0});
}

TEST_CASE("prefix-aware routing goes where the prompt is cached, unless that replica is too busy") {
  sim::ServingOptions options = replicas(2, sim::Routing::prefix_aware);
  const std::vector<traces::WorkloadRequest> requests = {with_prefix(0, 10, 1),     with_prefix(0, 20, 1),
                                                         with_prefix(0.1, 20, 30),  with_prefix(0.11, 20, 30),
                                                         with_prefix(0.12, 10, 30), with_prefix(0.13, 20, 1)};
  CHECK(chosen(serve(options, requests)) == std::vector<int>{0, 1, 1, 1, 0, 1});
  options.routing_imbalance = 0;
  CHECK(chosen(serve(options, requests)) == std::vector<int>{0, 1, 1, 0, 0, 1});
}

TEST_CASE("disaggregation: prefill, copy, decode") {
  const sim::ServingResult result = serve(disaggregated(), {request(0, 8, 3), request(0, 4, 2), request(0, 4, 1)});
  // Copies pass one after another, from 10 to 20 and from 20 to 26 ms; the second joins the step that begins at 30 ms.
  CHECK(result.requests.at(0).first_token == 10 * ms);
  CHECK(result.requests.at(0).finish == 40 * ms);
  CHECK(result.requests.at(0).replica == 0);
  CHECK(result.requests.at(0).decode_replica == 0);
  CHECK(result.requests.at(1).first_token == 10 * ms);
  CHECK(result.requests.at(1).finish == 40 * ms);
  CHECK(result.requests.at(2).finish == 10 * ms);
  CHECK(result.requests.at(2).decode_replica == -1);
  CHECK(result.transferred_bytes == 12'000);
  REQUIRE(result.replicas.size() == 2);
  CHECK(result.replicas.at(0).busy == 10 * ms);
  CHECK(result.replicas.at(1).busy == 20 * ms);
  CHECK(result.replicas.at(0).computed_tokens == 16);
  CHECK(result.replicas.at(1).computed_tokens == 3);
}

TEST_CASE("a copy waits for room, and its source keeps the blocks until it is done") {
  sim::ServingOptions options = disaggregated();
  options.replicas.blocks = 5;
  options.disaggregation->decode.blocks = 4;
  // 12 tokens and 2 more need 4 blocks in the end, 4 to begin with: 13 known tokens.
  const sim::ServingResult result = serve(options, {request(0, 12, 3), request(0.001, 7, 2), request(0.002, 8, 1)});
  // First: copied from 10 to 24 ms, decodes until 44 ms. Second: prefilled from 10 to 20 ms, copied from 44 to 53 ms.
  CHECK(result.requests.at(0).finish == 44 * ms);
  CHECK(result.requests.at(1).first_token == 20 * ms);
  CHECK(result.requests.at(1).finish == 63 * ms);
  // Third: 3 of 5 blocks are held by the first until 24 ms, and 2 by the second until 53 ms.
  CHECK(result.requests.at(2).scheduled == 24 * ms);
  CHECK(result.requests.at(2).finish == 34 * ms);
}

TEST_CASE("a decode replica out of blocks preempts and computes again itself") {
  sim::ServingOptions options = disaggregated();
  options.prefix_cache = false;
  options.disaggregation->decode.blocks = 4;
  options.disaggregation->link = {0, 1e12};
  const sim::ServingResult result = serve(options, {request(0, 4, 9), request(0, 4, 9)});
  // As on one replica: preempted at 50 ms after 5 tokens, computed again from 90 to 100 ms.
  CHECK(result.requests.at(0).finish == 90 * ms + result.requests.at(0).finish % ms);
  CHECK(result.requests.at(0).preemptions == 0);
  CHECK(result.requests.at(1).preemptions == 1);
  CHECK(result.replicas.at(1).preemptions == 1);
  CHECK(result.requests.at(1).generated_tokens == 9);
}

TEST_CASE("a request must fit both kinds of replicas") {
  sim::ServingOptions options = disaggregated();
  options.replicas.blocks = 2;
  options.disaggregation->decode.blocks = 3;
  const sim::ServingResult result = serve(options, {request(0, 8, 5), request(0, 9, 1), request(0, 8, 6)});
  CHECK(result.requests.at(0).status == sim::RequestStatus::completed);
  CHECK(result.requests.at(1).status == sim::RequestStatus::too_long);
  CHECK(result.requests.at(2).status == sim::RequestStatus::too_long);
}

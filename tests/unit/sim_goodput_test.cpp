// Do searches find the rate and the number that a monotone question hides, and are latencies and objectives what they
// say?
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "sim/serving/goodput.h"
#include "sim/serving/objective_watch.h"
#include "sim/serving/service_metrics.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::sim;
using Catch::Matchers::Contains;

namespace {

RequestRecord record(double arrival, double first_token, double finish, std::int64_t output = 11) {
  RequestRecord request;
  request.arrival = request.scheduled = from_seconds(arrival);
  request.first_token = from_seconds(first_token);
  request.finish = from_seconds(finish);
  request.prompt_tokens = 100;
  request.output_tokens = request.generated_tokens = output;
  request.status = RequestStatus::completed;
  return request;
}

RequestRecord refused_record(double arrival) {
  RequestRecord request;
  request.arrival = request.finish = from_seconds(arrival);
  request.prompt_tokens = request.output_tokens = 1 << 20;
  request.status = RequestStatus::too_long;
  return request;
}

ServingResult result_of(std::vector<RequestRecord> requests) {
  ServingResult result;
  for (const RequestRecord& request : requests) {
    result.end = std::max(result.end, request.finish);
    (request.status == RequestStatus::completed ? result.completed : result.refused) += 1;
  }
  result.requests = std::move(requests);
  result.replicas.emplace_back();
  return result;
}

/// Requests one second apart, each `residence(index)` seconds in the system.
template <typename Residence>
ServingResult regular(int count, Residence residence) {
  std::vector<RequestRecord> requests;
  for (int index = 0; index < count; ++index) requests.push_back(record(index, index, index + residence(index)));
  return result_of(std::move(requests));
}

std::string refused(const std::string& objective) {
  try {
    ServiceObjective::parse(objective);
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was refused";
}

}  // namespace

TEST_CASE("the largest rate is found from any start") {
  for (const double limit : {1e-5, 0.3, 1.0, 7.7, 12345.0}) {
    for (const double start : {1e-3, 1.0, 7.7, 1e6}) {
      INFO(limit << " from " << start);
      int calls = 0;
      const auto found = largest_rate(
          [&](double rate) {
            ++calls;
            return rate <= limit;
          },
          {.start = start, .lowest = 1e-6, .highest = 1e9, .tolerance = 0.01});
      REQUIRE(found.has_value());
      CHECK(*found <= limit);
      CHECK(*found * 1.01 >= limit);
      CHECK(calls < 80);
    }
  }
  CHECK_FALSE(largest_rate([](double) { return false; }, {}).has_value());
  CHECK(largest_rate([](double) { return true; }, {.highest = 50}) == 50.0);
}

TEST_CASE("every seed has its own largest rate") {
  const auto rates = largest_rates([](double rate, std::uint64_t seed) { return rate <= static_cast<double>(seed); },
                                   {2, 5, 0}, {});  // none passes for the last
  REQUIRE(rates.size() == 3);
  CHECK(*rates[0] == Approx(2).epsilon(0.02));
  CHECK(*rates[1] == Approx(5).epsilon(0.02));
  CHECK_FALSE(rates[2].has_value());
}

TEST_CASE("the smallest count") {
  for (const std::int64_t limit : {1, 2, 3, 7, 8, 9, 77, 100}) {
    for (const std::int64_t start : {-5, 1, 2, 8, 60, 100, 1000}) {
      CAPTURE(limit, start);
      int calls = 0;
      const auto passes = [&](std::int64_t count) {
        ++calls;
        return count >= limit;
      };
      CHECK(smallest_count(passes, {.most = 100, .start = start}) == limit);
      CHECK(calls <= 14);
    }
  }
  const auto never = [](std::int64_t count) { return count > 100; };
  CHECK_FALSE(smallest_count(never, {.most = 100}).has_value());
  CHECK_FALSE(smallest_count(never, {.most = 100, .start = 100}).has_value());
  // Below the least nothing is asked.
  const auto above = [](std::int64_t count) {
    REQUIRE(count >= 5);
    return true;
  };
  CHECK(smallest_count(above, {.least = 5, .most = 100, .start = 50}) == 5);
}

TEST_CASE("the smallest count that is enough under every seed") {
  const auto passes = [](std::int64_t count, std::uint64_t seed) { return count >= static_cast<std::int64_t>(seed); };
  CHECK(smallest_count(passes, {3, 9, 5}, {.most = 20}) == 9);
  CHECK(smallest_count(passes, {9, 3, 5}, {.most = 20}) == 9);
  CHECK_FALSE(smallest_count(passes, {3, 90}, {.most = 20}).has_value());
}

TEST_CASE("a run is given up only when its objective is lost whatever comes") {
  std::vector<RequestRecord> requests;
  for (int index = 0; index < 200; ++index) requests.push_back(record(index, index + 0.1 * (index % 7), index + 2));
  requests[20].finish = from_seconds(500);  // late, and with a slow pace
  requests[30] = refused_record(30);
  requests[40].output_tokens = requests[40].generated_tokens = 1;  // no pace
  int lost_early = 0;
  for (const char* text :
       {"ttft_p99=0.55", "ttft_p99=0.65", "ttft_p50=0.25", "ttft_p50=0.35", "ttft_mean=0.2", "e2e_p99=3", "e2e_max=3",
        "e2e_p99.5=1000", "tpot_p99=0.3", "tpot_p90=0.3", "tpot_p90=0.1", "e2e_p50=1.9,ttft_p50=9", "e2e_mean=9"}) {
    CAPTURE(text);
    const ServiceObjective objective = ServiceObjective::parse(text);
    ObjectiveWatch watch(objective, static_cast<std::int64_t>(requests.size()));
    std::size_t seen = 0;
    while (seen < requests.size() && !watch.lost()) watch.finished(requests[seen++]);
    if (!watch.lost()) continue;
    CHECK_FALSE(objective.met(ServiceMetrics::of(result_of(requests))));
    if (seen < requests.size()) ++lost_early;
  }
  CHECK(lost_early == 7);
}

TEST_CASE("growing queues are seen, and steady ones are not taken for growing") {
  CHECK(keeps_up(regular(1000, [](int) { return 5.0; })));
  CHECK(keeps_up(regular(1000, [](int index) { return 4.0 + index % 3; })));
  // A tenth more arrives than leaves: the wait grows by a tenth of a second with every request.
  CHECK_FALSE(keeps_up(regular(1000, [](int index) { return 5.0 + 0.1 * index; })));
  CHECK(keeps_up(regular(10, [](int) { return 5.0; })));  // too short to tell
  CHECK_FALSE(keeps_up(result_of({refused_record(0)})));

  // A flood: all come within a second, and each waits for its turn of ten seconds.
  std::vector<RequestRecord> flood;
  for (int index = 0; index < 100; ++index) {
    flood.push_back(record(0.01 * index, 10 * index, 10 * index + 10));
    flood.back().scheduled = from_seconds(10 * index);
  }
  CHECK_FALSE(keeps_up(result_of(flood)));
  // All at once in one batch is no flood.
  for (RequestRecord& request : flood) {
    request.scheduled = request.arrival;
    request.finish = request.arrival + from_seconds(10);
  }
  CHECK(keeps_up(result_of(flood)));
}

TEST_CASE("latencies and rates of a run") {
  auto requests = std::vector<RequestRecord>{record(1, 2, 3, 11), record(2, 2.5, 8.5, 4), record(3, 6, 6, 1)};
  const ServiceMetrics metrics = ServiceMetrics::of(result_of(requests));
  CHECK(metrics.requests == 3);
  CHECK(metrics.completed == 3);
  CHECK(metrics.ttft.mean() == Approx(1.5));
  CHECK(metrics.ttft.quantile(0.5) == 1);
  CHECK(metrics.ttft.quantile(0.75) == 2);  // half way from 1 to 3
  CHECK(metrics.tpot.count() == 2);         // a single token has no pace
  CHECK(metrics.tpot.mean() == Approx((0.1 + 2) / 2));
  CHECK(metrics.e2e.quantile(1) == 6.5);
  CHECK(metrics.seconds == 7.5);
  CHECK(metrics.output_tokens_per_second == Approx(16 / 7.5));
  CHECK(metrics.total_tokens_per_second == Approx(316 / 7.5));
  CHECK(std::isnan(ServiceMetrics::of(result_of({refused_record(0)})).ttft.mean()));
}

TEST_CASE("objectives") {
  std::vector<RequestRecord> requests;
  for (int index = 0; index < 100; ++index) requests.push_back(record(index, index + 0.01 * index, index + 2));
  const ServiceMetrics metrics = ServiceMetrics::of(result_of(requests));
  const auto met = [&](const std::string& text) { return ServiceObjective::parse(text).met(metrics); };
  CHECK(met("ttft_p99=980.2ms"));
  CHECK_FALSE(met("ttft_p99=980ms"));
  CHECK(met("ttft_max=0.99"));
  CHECK_FALSE(met("ttft_p100=0.98s"));
  CHECK(met("e2e_mean=2s,ttft_mean=0.5"));
  CHECK_FALSE(met("e2e_mean=2,ttft_mean=400000us"));
  CHECK(met("e2e_p99.9=1min"));
  CHECK_THAT(ServiceObjective::parse("e2e_mean=1").misses(metrics), Contains("e2e_mean is 2 s, limit 1 s"));
  // A request that is refused is infinitely late: one in 101 spoils a mean and p99.5, not p98.
  requests.push_back(refused_record(100));
  const ServiceMetrics with_refused = ServiceMetrics::of(result_of(requests));
  CHECK(ServiceObjective::parse("e2e_p98=2").met(with_refused));
  CHECK_FALSE(ServiceObjective::parse("e2e_p99.5=1000").met(with_refused));
  CHECK_FALSE(ServiceObjective::parse("e2e_mean=1000").met(with_refused));
  CHECK(with_refused.e2e.mean() == Approx(2));
}

TEST_CASE("what is no objective is refused") {
  for (const char* text : {"", "ttft", "ttft_p99", "ttft=2", "ttft_p99=", "ttft_p99=0", "ttft_p99=-1s", "ttft_p99=2h",
                           "ttft_p0=1", "ttft_p101=1", "ttft_pxx=1", "ttft_median=1", "itl_p99=1", "ttft_p99=nan",
                           "ttft_p99=inf", "ttft_p99=2s,,tpot_p99=1"}) {
    INFO(text);
    CHECK_THAT(refused(text), Contains("--slo"));
  }
}

// Do single-server and many-server queues, built from the serving simulation, wait as their closed forms say?
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "tests/support/serving_double.h"

using namespace evictsim;
using namespace evictsim::tests;

namespace {

constexpr double step_seconds = 0.001;

struct Waits {
  double mean = 0;
  double error = 0;  ///< half of the 99.9 % interval, from the means of batches of successive requests
};

/// Waits in queue of `count` requests, after a tenth of them to warm up.
Waits waits(const sim::ServingResult& result) {
  std::vector<double> all;
  for (const sim::RequestRecord& record : result.requests) {
    all.push_back(sim::to_seconds(record.scheduled - record.arrival));
  }
  constexpr std::size_t parts = 30;
  const std::size_t skipped = all.size() / 10, length = (all.size() - skipped) / parts;
  std::vector<double> means;
  for (std::size_t part = 0; part < parts; ++part) {
    double sum = 0;
    for (std::size_t i = 0; i < length; ++i) sum += all[skipped + part * length + i];
    means.push_back(sum / static_cast<double>(length));
  }
  Waits waits;
  for (const double mean : means) waits.mean += mean / parts;
  double variance = 0;
  for (const double mean : means) variance += (mean - waits.mean) * (mean - waits.mean) / (parts - 1);
  // Student's t with 29 degrees of freedom, 0.9995 quantile.
  waits.error = 3.659 * std::sqrt(variance / parts);
  return waits;
}

/// `servers` servers without memory limits that each serve one request at a time, `output` steps long. One queue: the
/// servers are the places of the batch, since a step takes the same time however many take part in it.
sim::ServingOptions servers(std::int64_t count) {
  sim::ServingOptions options;
  options.replicas.step_cost = milliseconds_per_step(1);
  options.replicas.blocks = 1'000'000;
  options.replicas.max_sequences = count;
  options.prefix_cache = false;
  return options;
}

/// Poisson arrivals; services are whole numbers of steps.
template <typename Steps>
std::vector<traces::WorkloadRequest> poisson(double rate, std::size_t count, Steps steps, std::uint32_t seed) {
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> gap(rate);
  double arrival = 0;
  std::vector<traces::WorkloadRequest> requests;
  for (std::size_t i = 0; i < count; ++i) {
    arrival += gap(random);
    requests.push_back(request(arrival, 1, steps(random)));
  }
  return requests;
}

/// Exponential with mean 1 s, in steps of 1 ms.
std::int64_t exponential_steps(std::mt19937_64& random) {
  return std::max<std::int64_t>(1, std::llround(std::exponential_distribution<double>(step_seconds)(random)));
}

/// Mean wait in an M/M/c queue with service rate 1 (Erlang's C formula).
double erlang_wait(int servers, double rate) {
  double term = 1, sum = 0;
  for (int i = 0; i < servers; ++i) {
    sum += term;
    term *= rate / (i + 1);
  }
  const double utilisation = rate / servers;
  const double queued = term / (1 - utilisation);
  return queued / (sum + queued) / (servers - rate);
}

/// Arrivals wait for the next boundary of a running step as long as another request runs: at most one step.
constexpr double rounding = 2 * step_seconds;

}  // namespace

TEST_CASE("one place and exponential services wait as in M/M/1") {
  for (const double rate : {0.3, 0.6, 0.8}) {
    const Waits found = waits(serve(servers(1), poisson(rate, 60'000, exponential_steps, 1)));
    CAPTURE(rate, found.mean, found.error);
    CHECK(std::abs(found.mean - rate / (1 - rate)) < found.error + rounding);
  }
}

TEST_CASE("one place and constant services wait as in M/D/1") {
  for (const double rate : {0.3, 0.6, 0.8, 0.9}) {
    const auto steps = [](std::mt19937_64&) { return std::int64_t{1000}; };
    const Waits found = waits(serve(servers(1), poisson(rate, 60'000, steps, 2)));
    CAPTURE(rate, found.mean, found.error);
    CHECK(std::abs(found.mean - rate / (2 * (1 - rate))) < found.error + rounding);
  }
}

TEST_CASE("several places and exponential services wait as in M/M/c") {
  for (const int places : {2, 5, 20}) {
    const double rate = 0.8 * places;
    const Waits found = waits(serve(servers(places), poisson(rate, 60'000, exponential_steps, 3)));
    CAPTURE(places, found.mean, found.error);
    CHECK(std::abs(found.mean - erlang_wait(places, rate)) < found.error + rounding);
  }
}

TEST_CASE("round robin over replicas with equal services is one queue for all of them") {
  // Services of the same length end in the order in which they began, so the next replica in turn is the first one
  // free.
  sim::ServingOptions options = servers(1);
  options.replicas.replicas = 3;
  const auto requests = poisson(
      2.4, 60'000, [](std::mt19937_64&) { return std::int64_t{1000}; }, 4);
  CHECK(std::abs(waits(serve(options, requests)).mean - waits(serve(servers(3), requests)).mean) < rounding);
}

TEST_CASE("the shortest queue waits less than round robin, and longer than one queue for all") {
  sim::ServingOptions options = servers(1);
  options.replicas.replicas = 3;
  const auto requests = poisson(2.4, 60'000, exponential_steps, 6);
  const double in_turn = waits(serve(options, requests)).mean;
  options.routing = sim::Routing::least_loaded;
  const double shortest = waits(serve(options, requests)).mean;
  const double together = waits(serve(servers(3), requests)).mean;
  CHECK(in_turn > shortest);
  CHECK(shortest > together);
}

TEST_CASE("utilisation is the offered load") {
  const double rate = 0.7;
  const sim::ServingResult result = serve(servers(1), poisson(rate, 60'000, exponential_steps, 5));
  const double utilisation = sim::to_seconds(result.replicas.front().busy) / sim::to_seconds(result.end);
  // Its standard deviation is about sqrt(2 * rate / requests) for Poisson arrivals: 0.005; four of them.
  CHECK(utilisation == Approx(rate).margin(0.02));
}

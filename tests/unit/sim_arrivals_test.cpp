// Do made-up workloads have the distributions that were asked for, and do sources of requests keep their promises?
#include <algorithm>
#include <atomic>
#include <boost/math/special_functions/gamma.hpp>
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "sim/serving/arrivals.h"
#include "sim/serving/random_numbers.h"
#include "sim/serving/workload_source.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::sim;
using Catch::Matchers::Contains;
using traces::WorkloadRequest;

namespace {

constexpr std::size_t many = 20000;
/// sqrt(n) D_n exceeds it with probability 1e-3 (Kolmogorov's distribution); seeds are fixed, so it is 0 or 1 here.
constexpr double kolmogorov_limit = 1.95;

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

double deviation_of(const std::vector<double>& values) {
  const double mean = mean_of(values);
  double sum = 0;
  for (const double value : values) sum += (value - mean) * (value - mean);
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

/// sqrt(n) times the largest distance between the values' distribution and `distribution`.
double kolmogorov_smirnov(std::vector<double> values, const std::function<double(double)>& distribution) {
  std::sort(values.begin(), values.end());
  const auto count = static_cast<double>(values.size());
  double largest = 0;
  for (std::size_t index = 0; index < values.size(); ++index) {
    const double expected = distribution(values[index]);
    const auto rank = static_cast<double>(index);
    largest = std::max({largest, expected - rank / count, (rank + 1) / count - expected});
  }
  return std::sqrt(count) * largest;
}

double standard_normal(double value) { return 0.5 * std::erfc(-value / std::sqrt(2.0)); }

std::vector<double> draw(std::uint64_t seed, const std::function<double(RandomNumbers&)>& one) {
  RandomNumbers random(seed, 0, 0);
  std::vector<double> values;
  for (std::size_t index = 0; index < many; ++index) values.push_back(one(random));
  return values;
}

ServingWorkload made_up(const std::string& text) { return ServingWorkload::find(text, {}); }

Load load_of(double rate, std::int64_t requests, std::uint64_t seed = 0) {
  Load load;
  if (rate > 0) load.rate = rate;
  load.requests = requests;
  load.seed = seed;
  return load;
}

std::vector<WorkloadRequest> all_of(const ServingWorkload& workload, const Load& load) {
  const auto source = workload.source(load);
  std::vector<WorkloadRequest> requests;
  while (auto request = source->next()) requests.push_back(*request);
  return requests;
}

std::vector<double> gaps_of(const std::vector<WorkloadRequest>& requests) {
  std::vector<double> gaps;
  for (std::size_t index = 1; index < requests.size(); ++index) {
    gaps.push_back(requests[index].arrival_seconds - requests[index - 1].arrival_seconds);
  }
  return gaps;
}

std::string refused(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was refused";
}

/// Serves everything in `seconds`: all requests in the order in which they came.
std::vector<WorkloadRequest> served(RequestSource& source, double seconds,
                                    RequestStatus status = RequestStatus::completed) {
  struct Running {
    double finish;
    std::size_t index;
  };
  const auto later = [](const Running& left, const Running& right) {
    return left.finish != right.finish ? left.finish > right.finish : left.index > right.index;
  };
  std::vector<Running> running;
  std::vector<WorkloadRequest> requests;
  const auto take = [&](const WorkloadRequest& request) {
    running.push_back({request.arrival_seconds + seconds, requests.size()});
    std::push_heap(running.begin(), running.end(), later);
    requests.push_back(request);
  };
  auto arriving = source.next();
  while (arriving || !running.empty()) {
    if (arriving && (running.empty() || arriving->arrival_seconds <= running.front().finish)) {
      take(*arriving);
      arriving = source.next();
      continue;
    }
    std::pop_heap(running.begin(), running.end(), later);
    const Running done = running.back();
    running.pop_back();
    RequestRecord record;
    record.index = done.index;
    record.finish = from_seconds(done.finish);
    record.session = requests[done.index].session;
    record.status = status;
    if (auto request = source.finished(record)) take(*request);
  }
  return requests;
}

}  // namespace

TEST_CASE("basic distributions") {
  CHECK(kolmogorov_smirnov(draw(1, [](RandomNumbers& random) { return random.uniform(); }),
                           [](double value) { return value; }) < kolmogorov_limit);
  CHECK(kolmogorov_smirnov(draw(2, [](RandomNumbers& random) { return random.exponential(); }),
                           [](double value) { return 1 - std::exp(-value); }) < kolmogorov_limit);
  CHECK(kolmogorov_smirnov(draw(3, [](RandomNumbers& random) { return random.normal(); }), standard_normal) <
        kolmogorov_limit);
  for (const double shape : {0.0625, 0.25, 0.9, 1.0, 4.0, 100.0}) {
    INFO(shape);
    CHECK(kolmogorov_smirnov(draw(4, [&](RandomNumbers& random) { return random.gamma(shape); }), [&](double value) {
            return boost::math::gamma_p(shape, std::max(value, 1e-300));
          }) < kolmogorov_limit);
  }
  std::vector<int> counts(7);
  RandomNumbers random(5, 0, 0);
  for (int index = 0; index < 70000; ++index) ++counts[random.below(7)];
  double chi_square = 0;
  for (const int count : counts) chi_square += (count - 10000.0) * (count - 10000.0) / 10000;
  CHECK(chi_square < 22.46);  // 6 degrees of freedom, probability 1e-3
}

TEST_CASE("streams differ by seed, kind and number, and repeat") {
  std::set<std::uint64_t> first;
  for (const std::uint64_t seed : {0U, 1U, 2U}) {
    for (const std::uint64_t kind : {0U, 1U, 2U}) {
      for (const std::uint64_t number : {0U, 1U, 2U}) first.insert(RandomNumbers(seed, kind, number).bits());
    }
  }
  CHECK(first.size() == 27);
  CHECK(RandomNumbers(7, 1, 2).bits() == RandomNumbers(7, 1, 2).bits());
}

TEST_CASE("gaps between arrivals") {
  const double rate = 8;
  for (const auto& [text, variation] :
       std::map<std::string, double>{{"poisson", 1}, {"gamma(cv=2)", 2}, {"gamma(0.5)", 0.5}, {"gamma(cv=1)", 1}}) {
    INFO(text);
    const auto gaps = gaps_of(all_of(made_up(text), load_of(rate, many, 11)));
    // Four standard errors of a mean.
    CHECK(std::abs(mean_of(gaps) * rate - 1) < 4 * variation / std::sqrt(many));
    CHECK(deviation_of(gaps) / mean_of(gaps) == Approx(variation).epsilon(0.05));
    const double shape = 1 / (variation * variation);
    CHECK(kolmogorov_smirnov(gaps, [&](double gap) { return boost::math::gamma_p(shape, gap * rate * shape); }) <
          kolmogorov_limit);
  }
  const auto even = all_of(made_up("constant"), load_of(4, 5));
  REQUIRE(even.size() == 5);
  for (std::size_t index = 0; index < 5; ++index) {
    CHECK(even[index].arrival_seconds == 0.25 * static_cast<double>(index));
  }
}

TEST_CASE("lengths") {
  for (const auto& [mean, variation] : {std::pair{1000.0, 1.0}, std::pair{50000.0, 0.3}, std::pair{3e6, 2.0}}) {
    const TokenCount count{mean, variation};
    const auto values = draw(21, [&](RandomNumbers& random) { return static_cast<double>(count.draw(random)); });
    INFO(mean);
    CHECK(std::abs(mean_of(values) / mean - 1) < 4 * variation / std::sqrt(many));
    // The spread of a sample's deviation grows with the tail: the sixth moment of lognormal(cv=2) is enormous.
    CHECK(deviation_of(values) / mean == Approx(variation).epsilon(variation > 1 ? 0.3 : 0.05));
    const double variance = std::log1p(variation * variation);
    const double centre = std::log(mean) - variance / 2;
    std::vector<double> logarithms;
    for (const double value : values) logarithms.push_back((std::log(value) - centre) / std::sqrt(variance));
    if (mean > 2000) CHECK(kolmogorov_smirnov(logarithms, standard_normal) < kolmogorov_limit);
  }
  RandomNumbers random(1, 0, 0);
  CHECK(TokenCount{256, 0}.draw(random) == 256);
  CHECK(TokenCount{1, 50}.draw(random) >= 1);
}

TEST_CASE("lengths that were measured come in pairs") {
  const auto file = std::filesystem::path(EVICTSIM_TEST_SCRATCH) / "lengths.csv";
  std::ofstream(file) << "10,1\n20,2\n30,3\n";
  const ServingWorkload workload = made_up("poisson(lengths=" + file.string() + ")");
  std::map<std::int64_t, int> counts;
  for (const WorkloadRequest& request : all_of(workload, load_of(1, 3000))) {
    CHECK(request.prompt_tokens == 10 * request.output_tokens);
    ++counts[request.output_tokens];
  }
  CHECK(counts.size() == 3);
  for (const auto& [length, count] : counts) CHECK(std::abs(count - 1000) < 110);  // four deviations of a binomial
  CHECK(made_up(workload.name()).name() == workload.name());
}

TEST_CASE("the same requests at any rate, other ones with another seed") {
  const ServingWorkload workload = made_up("gamma(cv=2,prompt=lognormal(1000,1),output=lognormal(mean=100,cv=2))");
  const auto slow = all_of(workload, load_of(1, 50, 3));
  const auto fast = all_of(workload, load_of(100, 50, 3));
  const auto other = all_of(workload, load_of(1, 50, 4));
  std::size_t equal = 0;
  for (std::size_t index = 0; index < 50; ++index) {
    CHECK(slow[index].prompt_tokens == fast[index].prompt_tokens);
    CHECK(slow[index].output_tokens == fast[index].output_tokens);
    CHECK(slow[index].arrival_seconds == Approx(100 * fast[index].arrival_seconds).epsilon(1e-12));
    if (slow[index].prompt_tokens == other[index].prompt_tokens) ++equal;
  }
  CHECK(equal < 5);
}

TEST_CASE("requests, duration and scale") {
  const ServingWorkload workload = made_up("constant");
  CHECK(all_of(workload, load_of(2, 7)).size() == 7);
  Load load;
  load.rate = 2;
  CHECK(all_of(workload, load).size() == static_cast<std::size_t>(default_requests));
  load.duration = 10;
  CHECK(all_of(workload, load).size() == 20);
  load.scale_rate = 3;
  CHECK(all_of(workload, load).size() == 60);
  CHECK(workload.rate(load) == 6.0);
  load.requests = 5;
  CHECK(all_of(workload, load).size() == 5);
}

TEST_CASE("traces are stretched to a rate") {
  const auto file = std::filesystem::path(EVICTSIM_TEST_SCRATCH) / "trace.csv";
  std::ofstream(file) << "0,10,1\n1,20,2\n2,30,3\n4,40,4\n";
  const ServingWorkload workload = made_up(file.string());
  CHECK(workload.name() == "trace.csv");
  CHECK(workload.rate({}) == 0.75);
  CHECK(all_of(workload, {})[3].arrival_seconds == 4);
  Load load;
  load.rate = 1.5;
  CHECK(all_of(workload, load)[3].arrival_seconds == 2);
  load.scale_rate = 2;
  CHECK(all_of(workload, load)[1].arrival_seconds == 0.25);
  load.duration = 0.5;  // what arrives at its end is too late
  CHECK(all_of(workload, load).size() == 2);
  std::ofstream(file) << "3,10,1\n3,20,2\n";
  const ServingWorkload at_once = made_up(file.string());
  CHECK(all_of(at_once, {}).size() == 2);
  CHECK_THAT(refused([&] { (void)at_once.source(load_of(1, 2)); }), Contains("--rate") && Contains("at once"));
}

TEST_CASE("a closed loop keeps its users busy") {
  const ServingWorkload workload = made_up("closed(concurrency=3,prompt=8,output=2)");
  const auto source = workload.source(load_of(0, 10));
  const auto requests = served(*source, 2);
  REQUIRE(requests.size() == 10);
  for (std::size_t index = 0; index < 10; ++index) {
    CHECK(requests[index].arrival_seconds == 2.0 * static_cast<double>(index / 3));
  }
  CHECK_FALSE(workload.rate({}).has_value());
  CHECK_THAT(refused([&] { (void)workload.source(load_of(1, 2)); }), Contains("--rate") && Contains("closed loop"));
  // Refusals take no time, and yet a duration ends.
  Load load;
  load.duration = 100;
  const auto short_lived = workload.source(load);
  CHECK(served(*short_lived, 0, RequestStatus::too_long).size() == 300);
}

TEST_CASE("turns of a conversation hold what was said before, and wait for the answer") {
  const ServingWorkload workload =
      made_up("poisson(prompt=40,output=24,turns=3,think_seconds=5,prefix_groups=2,prefix_tokens=100)");
  const auto source = workload.source(load_of(30, 3000, 9));
  const auto requests = served(*source, 1);
  REQUIRE(requests.size() == 3000);
  std::map<std::uint32_t, std::vector<WorkloadRequest>> conversations;
  for (const WorkloadRequest& request : requests) conversations[request.session].push_back(request);
  CHECK(conversations.count(0) == 0);
  std::vector<double> thinking;
  std::map<std::uint64_t, int> groups;
  std::size_t complete = 0;
  for (const auto& [session, turns] : conversations) {
    ++groups[turns[0].prefix_blocks[0]];
    if (turns.size() == 3) ++complete;
    for (std::size_t turn = 0; turn < turns.size(); ++turn) {
      CHECK(turns[turn].prompt_tokens == 140 + 64 * static_cast<std::int64_t>(turn));
      CHECK(turns[turn].prefix_block_tokens == 16);
      // 100 tokens are 6 whole blocks of 16; the answer's blocks are named too.
      CHECK(turns[turn].prefix_blocks.size() == (164 + 64 * turn) / 16);
      if (turn == 0) continue;
      thinking.push_back(turns[turn].arrival_seconds - turns[turn - 1].arrival_seconds - 1);
      const auto& before = turns[turn - 1].prefix_blocks;
      CHECK(std::equal(before.begin(), before.end(), turns[turn].prefix_blocks.begin()));
    }
  }
  CHECK(complete > 900);
  REQUIRE(groups.size() == 2);
  CHECK(std::abs(groups.begin()->second - static_cast<int>(conversations.size()) / 2) < 65);
  const double expected = 5;
  CHECK(std::abs(mean_of(thinking) / expected - 1) < 4 / std::sqrt(static_cast<double>(thinking.size())));
  std::set<std::uint64_t> own;
  for (const auto& [session, turns] : conversations) own.insert(turns[0].prefix_blocks[6]);
  CHECK(own.size() == conversations.size());
}

TEST_CASE("workloads as text") {
  for (const char* text : {"poisson(prompt=1024,output=256)", "gamma(cv=2,prompt=lognormal(mean=1000,cv=1),output=256)",
                           "closed(concurrency=64,prompt=1024,output=256,think_seconds=0.5)",
                           "constant(prompt=1,output=1,prefix_groups=4,prefix_tokens=100,turns=3)"}) {
    CHECK(GeneratedWorkload::parse(text, {}).text() == text);
  }
  GeneratedWorkload defaults;
  defaults.prompt = TokenCount::parse("lognormal(100)", "--prompt-tokens");
  CHECK(GeneratedWorkload::parse("closed(8, output=fixed(3))", defaults).text() ==
        "closed(concurrency=8,prompt=lognormal(mean=100,cv=1),output=3)");
}

TEST_CASE("what is no workload is refused") {
  const auto of = [](const std::string& text) { return refused([&] { made_up(text); }); };
  CHECK_THAT(of("poison"), Contains("--workload = poison") && Contains("nearest: poisson"));
  CHECK_THAT(of("nowhere.csv"), Contains("nowhere.csv"));
  CHECK_THAT(of("gamma(cv=2"), Contains("--workload"));
  CHECK_THAT(of("gamma(cv=0)"), Contains("--workload cv = 0"));
  CHECK_THAT(of("gamma(cv=nan)"), Contains("cv"));
  CHECK_THAT(of("gamma(cv=two)"), Contains("cv = two"));
  CHECK_THAT(of("poisson(cv=2)"), Contains("no parameter of that name"));
  CHECK_THAT(of("gamma(cv=2,cv=3)"), Contains("twice"));
  CHECK_THAT(of("gamma(1,2,3,4,5,6,7,8,9)"), Contains("--workload"));
  CHECK_THAT(of("closed(concurrency=0)"), Contains("concurrency"));
  CHECK_THAT(of("closed(concurrency=-3)"), Contains("concurrency"));
  CHECK_THAT(of("poisson(prompt=0)"), Contains("--workload prompt = 0"));
  CHECK_THAT(of("poisson(prompt=1.5)"), Contains("whole number"));
  CHECK_THAT(of("poisson(prompt=lognormal(cv=1))"), Contains("needs a mean"));
  CHECK_THAT(of("poisson(prompt=lognormal(mean=10,cv=-1))"), Contains("coefficient"));
  CHECK_THAT(of("poisson(prompt=zipf(2))"), Contains("zipf"));
  CHECK_THAT(of("poisson(output=9e99)"), Contains("2^31"));
  CHECK_THAT(of("poisson(prefix_groups=3)"), Contains("together"));
  CHECK_THAT(of("poisson(turns=0)"), Contains("turns"));
  CHECK_THAT(of("poisson(think_seconds=-1)"), Contains("think_seconds"));
  const ServingWorkload poisson = made_up("poisson");
  const auto with = [&](auto change) {
    return refused([&] {
      Load load = load_of(1, 10);
      change(load);
      (void)poisson.source(load);
    });
  };
  CHECK_THAT(with([](Load& load) { load.rate.reset(); }), Contains("needs --rate"));
  CHECK_THAT(with([](Load& load) { load.rate = 0; }), Contains("--rate = 0"));
  CHECK_THAT(with([](Load& load) { load.rate = -1; }), Contains("--rate = -1"));
  CHECK_THAT(with([](Load& load) { load.rate = std::nan(""); }), Contains("--rate"));
  CHECK_THAT(with([](Load& load) { load.scale_rate = 0; }), Contains("--scale-rate"));
  CHECK_THAT(with([](Load& load) { load.duration = 0; }), Contains("--duration"));
  CHECK_THAT(with([](Load& load) { load.requests = 0; }), Contains("--requests-count"));
  Load slow = load_of(1e-9, 1000);
  const auto source = poisson.source(slow);
  CHECK_THAT(refused([&] {
               while (source->next()) {
               }
             }),
             Contains("--rate"));
}

TEST_CASE("a source stops on request") {
  const ServingWorkload poisson = made_up("poisson");
  std::atomic<bool> stop = false;
  Load load = load_of(1, 10);
  load.stop = &stop;
  const auto source = poisson.source(load);
  CHECK(source->next().has_value());
  stop = true;
  CHECK_THROWS_AS(source->next(), Error);
}

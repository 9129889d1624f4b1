// Are intervals, quantiles and decimals what their definitions say?
#include <algorithm>
#include <catch2/catch.hpp>
#include <charconv>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "analysis/csv.h"
#include "analysis/quantiles.h"
#include "analysis/run_row.h"
#include "analysis/statistics.h"

using namespace evictsim::analysis;

namespace {

/// numpy.quantile with its default interpolation, on float64.
double reference_quantile(std::vector<float> values, double share) {
  std::sort(values.begin(), values.end());
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(std::floor(place));
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (place - std::floor(place)) * (double{values[above]} - double{values[below]});
}

std::vector<float> skewed_values(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::lognormal_distribution<float> distribution(-3.0F, 2.0F);
  std::vector<float> values(count);
  for (float& value : values) value = distribution(generator);
  return values;
}

double parsed(const std::string& text) {
  double value = 0;
  const auto end = std::from_chars(text.data(), text.data() + text.size(), value);
  REQUIRE(end.ptr == text.data() + text.size());
  return value;
}

}  // namespace

TEST_CASE("a Student interval of four values matches the textbook") {
  const std::vector<double> values = {1, 2, 3, 6};
  const Estimate estimate = student_estimate(values);
  // s^2 = (4 + 1 + 0 + 9) / 3, t(3, 0.975) = 3.182446305284263.
  const double half_width = 3.182446305284263 * std::sqrt(14.0 / 3.0 / 4.0);
  CHECK(estimate.mean == 3.0);
  CHECK(estimate.low == Approx(3.0 - half_width).margin(1e-9));
  CHECK(estimate.high == Approx(3.0 + half_width).margin(1e-9));
  CHECK(estimate.count == 4);
}

TEST_CASE("too few values have no interval, none have no mean") {
  const std::vector<double> one = {2.5};
  CHECK(student_estimate(one).mean == 2.5);
  CHECK(std::isnan(student_estimate(one).low));
  CHECK(std::isnan(student_estimate({}).mean));
  CHECK(batch_count(0) == 0);
  CHECK(batch_count(1) == 0);
}

TEST_CASE("intervals stay within what a metric can be") {
  const Estimate wide{.mean = 0.5, .low = -1, .high = 2, .count = 2};
  const Estimate share = within_range(Metric::retained_mass, wide);
  CHECK(share.mean == 0.5);
  CHECK(share.low == 0);
  CHECK(share.high == 1);
  CHECK(share.count == 2);
  CHECK(within_range(Metric::squared_error, wide).low == 0);
  CHECK(within_range(Metric::squared_error, wide).high == 2);
  CHECK(within_range(Metric::output_error, wide).low == 0);
  const Estimate none = within_range(Metric::retained_mass, {});
  CHECK(std::isnan(none.mean));
  CHECK(std::isnan(none.low));
}

TEST_CASE("batches cover all steps in order, and differ by one step at most") {
  for (const std::size_t steps : {2U, 3U, 7U, 64U, 100U, 1023U}) {
    const std::size_t batches = batch_count(steps);
    std::vector<std::size_t> sizes(batches, 0);
    std::size_t last = 0;
    for (std::size_t step = 0; step < steps; ++step) {
      const std::size_t batch = batch_of(step, steps, batches);
      REQUIRE(batch < batches);
      REQUIRE(batch >= last);
      last = batch;
      ++sizes[batch];
    }
    const auto [smallest, largest] = std::minmax_element(sizes.begin(), sizes.end());
    CHECK(*smallest >= 1);
    CHECK(*largest - *smallest <= 1);
  }
}

TEST_CASE("intervals over batches hold the true mean of correlated steps about as often as they claim") {
  // An autoregressive series, mean 0, correlation 0.7 from step to step.
  constexpr int series_count = 400;
  constexpr std::size_t steps = 400;
  std::mt19937 generator(11);
  std::normal_distribution<double> noise;
  int by_batches = 0;
  int by_steps = 0;
  for (int series = 0; series < series_count; ++series) {
    std::vector<double> values(steps);
    double value = noise(generator) / std::sqrt(1 - 0.49);
    for (double& slot : values) slot = value = 0.7 * value + noise(generator);
    const std::size_t batches = batch_count(steps);
    std::vector<double> means(batches, 0.0);
    for (std::size_t step = 0; step < steps; ++step) {
      means[batch_of(step, steps, batches)] += values[step] * static_cast<double>(batches) / static_cast<double>(steps);
    }
    const Estimate batched = student_estimate(means);
    const Estimate naive = student_estimate(values);
    by_batches += batched.low <= 0 && 0 <= batched.high;
    by_steps += naive.low <= 0 && 0 <= naive.high;
  }
  CHECK(by_batches > series_count * 85 / 100);
  CHECK(by_steps < series_count * 75 / 100);
}

TEST_CASE("quantiles are numpy's up to the limit, whatever the order") {
  for (const std::size_t count : {std::size_t{1}, std::size_t{2}, std::size_t{101}, Quantiles::exact_limit}) {
    std::vector<float> values = skewed_values(count, 5);
    Quantiles forward;
    forward.add(values);
    for (const double share : {0.0, 0.5, 0.95, 0.99, 1.0})
      CHECK(forward.at(share) == reference_quantile(values, share));
    std::shuffle(values.begin(), values.end(), std::mt19937(3));
    Quantiles shuffled;
    for (const float value : values) shuffled.add({&value, 1});
    CHECK(shuffled.at(0.95) == forward.at(0.95));
  }
  CHECK(std::isnan(Quantiles().at(0.5)));
}

TEST_CASE("beyond the limit quantiles are known to 0.1 %, and still do not depend on the order") {
  std::vector<float> values = skewed_values(3 * Quantiles::exact_limit, 7);
  values[10] = 0.0F;
  values[20] = 1e30F;
  Quantiles forward;
  forward.add(values);
  CHECK(forward.count() == values.size());
  for (const double share : {0.001, 0.5, 0.95, 0.99}) {
    CHECK(forward.at(share) == Approx(reference_quantile(values, share)).epsilon(1e-3));
  }
  CHECK(forward.at(0.0) == 0.0);
  std::reverse(values.begin(), values.end());
  Quantiles backward;
  backward.add(values);
  for (const double share : {0.0, 0.5, 0.95, 1.0}) CHECK(backward.at(share) == forward.at(share));
}

TEST_CASE("decimals read back as the same double and are short") {
  CHECK(decimal(0.1) == "0.1");
  CHECK(decimal(1.0 - 0.9) == "0.09999999999999998");
  CHECK(decimal(12000000) == "12000000");
  CHECK(decimal(0) == "0");
  CHECK(decimal(std::numeric_limits<double>::quiet_NaN()).empty());
  std::mt19937_64 generator(1);
  for (int round = 0; round < 2000; ++round) {
    const double value = std::ldexp(static_cast<double>(generator()), static_cast<int>(generator() % 600) - 360);
    REQUIRE(parsed(decimal(value)) == value);
  }
  CHECK(parsed(decimal(9007199254740992.0)) == 9007199254740992.0);
}

TEST_CASE("fields are quoted as RFC 4180 says") {
  CHECK(csv_field("snapkv") == "snapkv");
  CHECK(csv_field("snapkv(window=16,kernel=7)") == "\"snapkv(window=16,kernel=7)\"");
  CHECK(csv_field("a \"b\"") == "\"a \"\"b\"\"\"");
  CHECK(csv_field("two\nlines") == "\"two\nlines\"");
  const std::vector<std::string> fields = {"a", "", "b,c"};
  CHECK(csv_line(fields) == "a,,\"b,c\"\n");
}

// Do repeated times become the right median, spread and outliers, and medians the right constants of a cost?
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "traces/capture/probe/statistics.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::traces::capture;

TEST_CASE("times are summarised without warm-up and outliers") {
  // Microseconds of a small kernel as clocks give them: slow at first, and one interruption.
  const std::vector<double> times = {95e-6,   31e-6,   10.2e-6, 10.4e-6, 10.3e-6,
                                     10.1e-6, 10.5e-6, 58e-6,   10.3e-6, 10.2e-6};
  const TimeSummary summary = summarise_times(times, 2);
  CHECK(summary.samples == 8);
  CHECK(summary.outliers == 1);
  CHECK(summary.median == Approx(10.3e-6));
  // Without the outlier: 10.1 10.2 10.2 10.3 10.3 10.4 10.5, quartiles at places 1.5 and 4.5.
  CHECK(summary.spread == Approx(10.35e-6 - 10.2e-6));

  const std::vector<double> even = {4, 1, 3, 2};
  CHECK(summarise_times(even, 0).median == 2.5);
  const std::vector<double> same = {2, 2, 2, 2, 2, 3};
  CHECK(summarise_times(same, 0).outliers == 1);
  CHECK(summarise_times(same, 5).median == 3);
}

TEST_CASE("times that cannot be are refused") {
  const std::vector<double> one = {1};
  CHECK_THROWS_AS(summarise_times(one, 1), Error);
  CHECK_THROWS_AS(summarise_times({}, 0), Error);
  for (const double bad : {0.0, -1.0, std::numeric_limits<double>::infinity(), std::nan("")}) {
    const std::vector<double> times = {1, bad, 1};
    CHECK_THROWS_AS(summarise_times(times, 0), Error);
  }
}

TEST_CASE("quantiles are linear between neighbours") {
  const std::vector<double> values = {1, 2, 4};
  CHECK(quantile(values, 0) == 1);
  CHECK(quantile(values, 0.25) == 1.5);
  CHECK(quantile(values, 0.75) == 3);
  CHECK(quantile(values, 1) == 4);
}

TEST_CASE("a fit finds latency and bandwidth") {
  std::vector<std::vector<double>> rows;
  std::vector<double> times;
  for (const double bytes : {4.0, 4096.0, 65536.0, 1048576.0, 16777216.0, 268435456.0}) {
    rows.push_back({1, bytes});
    times.push_back(8e-6 + bytes / 25e9);
  }
  const NonNegativeFit exact = fit_non_negative(rows, times);
  CHECK(exact.coefficients[0] == Approx(8e-6).epsilon(1e-9));
  CHECK(1 / exact.coefficients[1] == Approx(25e9).epsilon(1e-9));
  CHECK(exact.largest_relative_error < 1e-9);

  // One point 5 % off: what is largest does not decide alone.
  times.back() *= 1.05;
  const NonNegativeFit near = fit_non_negative(rows, times);
  CHECK(near.coefficients[0] == Approx(8e-6).epsilon(0.01));
  CHECK(1 / near.coefficients[1] == Approx(25e9).epsilon(0.06));
  CHECK(near.largest_relative_error < 0.05);
}

TEST_CASE("a fit reproduces published RTX 4090 attention times") {
  // "27.3 us + bytes / 952.8 GB/s" over cache sizes of 1 MiB to 4 GiB.
  std::vector<std::vector<double>> rows;
  std::vector<double> times;
  for (double bytes = 1 << 20; bytes <= 4294967296.0; bytes *= 4) {
    rows.push_back({1, bytes});
    times.push_back(27.3e-6 + bytes / 952.8e9);
  }
  const NonNegativeFit fit = fit_non_negative(rows, times);
  CHECK(fit.coefficients[0] == Approx(27.3e-6));
  CHECK(fit.coefficients[1] * 952.8e9 == Approx(1));
}

TEST_CASE("no coefficient is negative") {
  // Falls with the second number: the best that is allowed is a constant.
  const std::vector<std::vector<double>> rows = {{1, 1}, {1, 2}, {1, 3}};
  const std::vector<double> times = {3, 2, 1};
  const NonNegativeFit fit = fit_non_negative(rows, times);
  CHECK(fit.coefficients[1] == 0);
  // The constant c that makes sum (c / t - 1)^2 smallest: sum(1/t) / sum(1/t^2).
  CHECK(fit.coefficients[0] == Approx((1 / 3.0 + 1 / 2.0 + 1) / (1 / 9.0 + 1 / 4.0 + 1)));
  CHECK(fit.largest_relative_error == Approx(1 - fit.coefficients[0] / 3));
}

TEST_CASE("columns that depend on each other leave the later ones at 0") {
  const std::vector<std::vector<double>> rows = {{1, 10, 20}, {1, 20, 40}, {1, 40, 80}};
  const std::vector<double> times = {12, 22, 42};
  const NonNegativeFit fit = fit_non_negative(rows, times);
  CHECK(fit.coefficients[0] == Approx(2));
  CHECK(fit.coefficients[1] == Approx(1));
  CHECK(fit.coefficients[2] == 0);
  const std::vector<std::vector<double>> one = {{1, 10}};
  const std::vector<double> ten = {10};
  CHECK(fit_non_negative(one, ten).coefficients == std::vector<double>{10, 0});
}

TEST_CASE("a fit without points or with uneven ones is refused") {
  const std::vector<double> one = {1};
  CHECK_THROWS_AS(fit_non_negative({}, {}), Error);
  CHECK_THROWS_AS(fit_non_negative({{}}, one), Error);
  CHECK_THROWS_AS(fit_non_negative({{1, 2}, {1}}, std::vector<double>{1, 1}), Error);
  CHECK_THROWS_AS(fit_non_negative({{1, 2}, {1, 3}}, one), Error);
  CHECK_THROWS_AS(fit_non_negative({{1, 2, 3, 4, 5, 6, 7}}, one), Error);
}

#include "analysis/damage/conformal.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "traces/error.h"

namespace evictsim::analysis {

std::size_t fewest_residuals(double coverage) {
  constexpr double least = 0.5;
  constexpr double most = 0.99;
  if (!(coverage >= least && coverage <= most)) {
    throw Error(ErrorCode::invalid_argument, "must be from 0.5 to 0.99",
                {.file = {}, .dataset = {}, .parameter = "coverage", .value = fmt::format("{}", coverage)});
  }
  constexpr double rounding = 1e-9;  // 1 - 0.9 is not 0.1
  const double missed = 1 - coverage;
  const double to_exist = 2 / missed - 1;
  const double to_hold = missed * coverage / (largest_coverage_deviation * largest_coverage_deviation) - 2;
  return static_cast<std::size_t>(std::ceil(std::max(to_exist, to_hold) - rounding));
}

ConformalBand conformal_band(std::vector<double> residuals, double coverage) {
  const std::size_t fewest = fewest_residuals(coverage);
  if (residuals.size() < fewest) {
    throw Error(ErrorCode::missing_data, fmt::format("a band with coverage {} needs {} residuals; there are {}",
                                                     coverage, fewest, residuals.size()));
  }
  std::sort(residuals.begin(), residuals.end());
  constexpr double rounding = 1e-9;
  const double places = static_cast<double>(residuals.size() + 1);
  const double tail = (1 - coverage) / 2;
  const auto low = static_cast<std::size_t>(std::floor(places * tail + rounding));
  const auto high = static_cast<std::size_t>(std::ceil(places * (1 - tail) - rounding));
  return {std::exp(residuals[std::max<std::size_t>(low, 1) - 1]),
          std::exp(residuals[std::min(high, residuals.size()) - 1])};
}

}  // namespace evictsim::analysis

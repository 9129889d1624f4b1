#include "analysis/statistics.h"

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>

namespace evictsim::analysis {

Estimate student_estimate(std::span<const double> values) {
  constexpr double tail = 0.025;
  Estimate estimate;
  estimate.count = values.size();
  if (values.empty()) return estimate;
  const auto count = static_cast<double>(values.size());
  double sum = 0;
  for (const double value : values) sum += value;
  estimate.mean = sum / count;
  if (values.size() < 2 || !std::isfinite(estimate.mean)) return estimate;
  double squares = 0;
  for (const double value : values) squares += (value - estimate.mean) * (value - estimate.mean);
  const boost::math::students_t student(count - 1);
  const double half_width =
      boost::math::quantile(boost::math::complement(student, tail)) * std::sqrt(squares / (count - 1) / count);
  estimate.low = estimate.mean - half_width;
  estimate.high = estimate.mean + half_width;
  return estimate;
}

std::size_t batch_count(std::size_t steps) {
  if (steps < 2) return 0;
  return std::max<std::size_t>(2, static_cast<std::size_t>(std::sqrt(static_cast<double>(steps))));
}

std::size_t batch_of(std::size_t step, std::size_t steps, std::size_t batches) { return step * batches / steps; }

}  // namespace evictsim::analysis

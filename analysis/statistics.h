#pragma once
/// \file
/// Means with confidence intervals: over independent values, and over the steps of one sequence, which are not.

#include <cstddef>
#include <limits>
#include <span>

namespace evictsim::analysis {

/// A mean and its two-sided 95 % confidence interval; NaN where there is none.
struct Estimate {
  double mean = std::numeric_limits<double>::quiet_NaN();
  double low = std::numeric_limits<double>::quiet_NaN();
  double high = std::numeric_limits<double>::quiet_NaN();
  std::size_t count = 0;  ///< values behind it
};

/// Mean of independent values with Student's interval (count - 1 degrees of freedom); no interval below two values.
Estimate student_estimate(std::span<const double> values);

/// In how many batches of neighbouring steps the interval over `steps` steps is taken: the integer square root, at
/// least 2; 0 below two steps, where there is no interval. Steps of one text are correlated, so that Student's interval
/// over them would be too narrow; means of long enough batches nearly are not (the method of batch means).
std::size_t batch_count(std::size_t steps);
/// The batch of step `step`; batch sizes differ by at most one.
std::size_t batch_of(std::size_t step, std::size_t steps, std::size_t batches);

}  // namespace evictsim::analysis

#pragma once
/// \file
/// From repeated times to a median with its spread, and from medians to the constants of a linear cost.

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace evictsim::traces::capture {

/// Times of one thing that was done again and again, in seconds.
struct TimeSummary {
  double median = 0;
  double spread = 0;        ///< third minus first quartile
  std::size_t samples = 0;  ///< without warm-up
  std::size_t outliers =
      0;  ///< further than three spreads outside the quartiles (Tukey's outer fences); left out above
};

/// Quantile of ascending values, linear between neighbours; `share` in [0, 1].
double quantile(std::span<const double> ascending, double share);

/// Summary of `seconds` in the order they were taken; the first `warm_up` are left out.
/// Throws Error (device_failure) unless something is left and every time is finite and above 0.
TimeSummary summarise_times(std::span<const double> seconds, std::size_t warm_up);

/// Coefficients x >= 0 that make the relative errors (row . x - time) / time smallest in the sense of least squares.
struct NonNegativeFit {
  std::vector<double> coefficients;
  double largest_relative_error = 0;
};

/// `rows` are the points, each with one number per coefficient (at most 6); `times` are above 0. Coefficients that the
/// points cannot tell apart (columns that depend on each other) are 0 from the last one on. Exact: every choice of
/// coefficients that are 0 is tried. Throws Error (invalid_argument) without points or with rows of different length.
NonNegativeFit fit_non_negative(const std::vector<std::vector<double>>& rows, std::span<const double> times);

}  // namespace evictsim::traces::capture

#pragma once
/// \file
/// Bands around predictions from the residuals of points that the prediction was not fitted to (split conformal
/// prediction: Lei et al., arXiv 1604.04173), two-sided, in logarithms.

#include <cstddef>
#include <vector>

namespace evictsim::analysis {

/// Factors on a prediction between which the measured value lies at the stated rate.
struct ConformalBand {
  double low = 0;
  double high = 0;
};

/// The rate at which a band from n residuals really holds is itself random, Beta distributed around the stated one; its
/// standard deviation is at most this for the numbers of residuals that are accepted.
inline constexpr double largest_coverage_deviation = 0.05;
/// Residuals of one text are alike: fewer texts than this say nothing about the next one.
inline constexpr std::size_t fewest_band_texts = 5;

/// The fewest residuals for a band with this coverage: enough for both of its order statistics to exist,
/// n >= 2 / (1 - coverage) - 1, and for largest_coverage_deviation. Throws Error(invalid_argument) unless
/// 0.5 <= coverage <= 0.99.
std::size_t fewest_residuals(double coverage);

/// From residuals log(measured / predicted): their order statistics floor((n + 1) a / 2) and ceil((n + 1) (1 - a / 2)),
/// a = 1 - coverage, counted from 1. For exchangeable residuals the band holds at least at the stated rate. Throws
/// Error(missing_data) below fewest_residuals().
ConformalBand conformal_band(std::vector<double> residuals, double coverage);

}  // namespace evictsim::analysis

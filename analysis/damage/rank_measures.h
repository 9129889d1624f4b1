#pragma once
/// \file
/// How well predictions order and hit measured values (docs/damage.md).

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace evictsim::analysis {

/// Rank correlation; equal values share their mean rank. NaN below two values, or where one side is constant.
double spearman(std::span<const double> left, std::span<const double> right);

/// A measured value and what was predicted for it.
struct PredictedPoint {
  std::string text, policy, budget;
  double measured = 0;   ///< > 0
  double predicted = 0;  ///< any scale, for ranks; the measured value's, for factors
};

/// NaN where there is nothing to measure it on.
struct RankMeasures {
  double average = 0;       ///< Spearman over points (policy and budget), both sides averaged over texts
  double fixed_budget = 0;  ///< Spearman over policies at one budget, likewise averaged; mean over budgets
  double pairs = 0;        ///< share of pairs of policies at one budget, likewise averaged, that are ordered correctly,
                           ///< of those whose measured values are more than 25 % apart
  double within_text = 0;  ///< Spearman over the points of one text; mean over texts
  double within_text_budget = 0;  ///< Spearman over policies in one text at one budget; mean over both
  double within_text_pairs = 0;   ///< as `pairs`, over all texts and budgets
  double factor_median = 0;       ///< of max(p / m, m / p) over points and texts
  double factor_90 = 0;           ///< its 90th percentile
  std::size_t points = 0, texts = 0;
};

/// Points that some text lacks take no part in averages over texts.
RankMeasures measure_ranks(std::span<const PredictedPoint> points);

/// Pairs closer than this share are not counted.
inline constexpr double pair_distance = 0.25;

}  // namespace evictsim::analysis

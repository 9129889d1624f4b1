#pragma once
/// \file
/// Which policies are best: Pareto fronts, the best policy per budget, and differences paired over sequences.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "analysis/report/point_grid.h"

namespace evictsim::analysis {

struct Fronts {
  /// [policies, budgets], 1 on the front. Oracles and the full cache stand outside.
  std::vector<std::uint8_t> budget;  ///< against the budget's share, among points that hold to it
  std::vector<std::uint8_t> bytes;   ///< against bytes kept in HBM
};
/// For a metric with a better direction.
Fronts fronts(const PointGrid& grid, const ShownMetric& metric);

/// Mean of left - right over the sequences that both hold, with Student's 95 % interval.
struct PairedDifference {
  Estimate estimate;
  /// Two-sided, of Student's t test; NaN below two sequences. 0 or 1 where all differences are equal.
  double p_value = not_available;
  /// Whether the interval leaves out 0; nullopt below two sequences.
  [[nodiscard]] std::optional<bool> significant() const;
};
/// Pairs are elements of equal trace and sequence.
PairedDifference paired_difference(std::span<const PointGrid::SequenceValue> left,
                                   std::span<const PointGrid::SequenceValue> right);

struct BestPolicy {
  std::size_t budget = 0, policy = 0;  ///< places in the grid
  Estimate value;
  std::vector<std::size_t> ties;    ///< other policies with exactly that mean, as from the same kept entries
  std::optional<std::size_t> next;  ///< the second-best policy, behind those that tie
  double next_value = not_available;
  std::optional<bool> apart;  ///< whether the two differ significantly; nullopt: cannot be said
};
/// Of every budget with a candidate: policies that hold to their budget, without oracles and the full cache. Equal
/// values: the first policy of the run.
std::vector<BestPolicy> best_policies(const PointGrid& grid, const ShownMetric& metric);

}  // namespace evictsim::analysis

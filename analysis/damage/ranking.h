#pragma once
/// \file
/// Policies in the order of the damage that a replay predicts for them (docs/damage.md).

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "analysis/run_row.h"

namespace evictsim::analysis {

/// Places from 1 for values in ascending order: equal values share one, the next takes its position (1, 1, 3).
std::vector<std::size_t> competition_ranks(std::span<const double> ascending);

/// One policy at one budget, over the sequences of a replay.
struct RankedPolicy {
  std::string policy;
  std::size_t place = 0;                             ///< of competition_ranks: exactly equal damage, equal place
  double damage = 0;                                 ///< mean over sequences of predicted_kl or damage_index
  double low = not_available, high = not_available;  ///< means of the bands
  std::size_t sequences = 0;
  std::string remark;          ///< from prediction_status, without "ok": what holds in any sequence
  bool like_previous = false;  ///< its band overlaps that of the policy before it: not distinguishable
};

struct BudgetRanking {
  std::string budget;
  /// "predicted_kl", or the kind of damage index where not every row of the budget has a prediction.
  std::string measure;
  std::vector<RankedPolicy> policies;       ///< least damage first, equal ones by name
  std::vector<std::string> without_damage;  ///< failed, or lacking what the measure needs
};

/// One ranking per budget, in the order of first rows. Policies are compared over the same sequences: those of the
/// budget in which all of its policies have the measure; a policy that has it in none is `without_damage`.
std::vector<BudgetRanking> rank_policies(const std::vector<RunRow>& rows);

/// Lines for a terminal; `coverage` is that of the bands.
std::string text_of(const std::vector<BudgetRanking>& rankings, double coverage);

}  // namespace evictsim::analysis

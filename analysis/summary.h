#pragma once
/// \file
/// Means over sequences: of every metric for each policy at each budget, and of regret over all budgets of a policy.

#include <array>
#include <string>
#include <vector>

#include "analysis/run_row.h"
#include "analysis/statistics.h"

namespace evictsim::analysis {

struct PointSummary {
  std::string policy, budget;
  std::size_t sequences = 0;  ///< rows without a failure
  /// By Metric: mean over the sequences in which it is available, and Student's 95 % interval over them.
  std::array<Estimate, metric_count> metrics;

  [[nodiscard]] const Estimate& operator[](Metric metric) const { return metrics[static_cast<std::size_t>(metric)]; }
};

/// One summary per policy and budget, in the order of their first rows. Failed rows are left out.
std::vector<PointSummary> summarise(const std::vector<RunRow>& rows);

/// One policy over all its budgets, in one trace.
struct PolicySummary {
  std::string trace, policy;
  std::vector<std::string> budgets;  ///< those summed over, in the order of their first rows
  /// Regret summed over budgets, over the oracle's gain summed over the same (docs/metrics.md): mean over the sequences
  /// in which it is available, and Student's 95 % interval over them. 0: as good as the oracle, 1: as a random cut.
  Estimate normalised_regret;
};

/// One summary per trace and policy, in the order of their first rows. Failed rows are left out.
std::vector<PolicySummary> summarise_over_budgets(const std::vector<RunRow>& rows);

}  // namespace evictsim::analysis

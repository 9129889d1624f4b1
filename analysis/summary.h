#pragma once
/// \file
/// The mean of every metric over sequences, for each policy at each budget.

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

}  // namespace evictsim::analysis

#pragma once
/// \file
/// Two runs side by side: differences per policy and budget, with their significance.

#include <string>
#include <vector>

#include "analysis/report/point_grid.h"
#include "analysis/report/ranking.h"

namespace evictsim::analysis {

/// One policy at one budget that both runs hold. Means are over the sequences that both hold at that point, known by
/// the checksum of their trace and their name.
struct ComparedPoint {
  std::string policy, budget;
  double left = not_available, right = not_available;
  PairedDifference difference;  ///< right - left
};

/// In the order of `left`: policies, then budgets.
std::vector<ComparedPoint> compare(const PointGrid& left, const PointGrid& right, const ShownMetric& metric);

/// A table of one metric for a terminal, with what it can and cannot say.
std::string comparison_text(const PointGrid& left, const PointGrid& right, const ShownMetric& metric);
/// CSV of every metric that both runs hold, with a header.
std::string comparison_csv(const PointGrid& left, const PointGrid& right);

}  // namespace evictsim::analysis

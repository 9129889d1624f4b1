#pragma once
/// \file
/// What a report says in words, computed from its data. What each sentence says: docs/report.md, "Summary".

#include <string>
#include <vector>

#include "analysis/plan_file.h"
#include "analysis/report/point_grid.h"

namespace evictsim::analysis {

/// Three significant digits.
std::string rounded(double value);
/// "1 policy", "2 policies".
std::string counted(std::size_t count, const std::string& one, const std::string& many);

/// What a run or plan asked, one line.
std::string asked(const PointGrid& grid);
std::string asked(const PlanContents& plan);

/// The best policy at the budget nearest a fifth of the prompt, and what can be said about its lead; the smallest
/// budget that holds an output error of 0.1; how far the best is from the best oracle at the first budget. Those that
/// the data can answer.
std::vector<std::string> run_sentences(const PointGrid& grid);
/// What eviction gains in throughput at an output error of at most 0.1, or how the rows compare without eviction. At
/// most one.
std::vector<std::string> plan_sentences(const PlanContents& plan);

}  // namespace evictsim::analysis

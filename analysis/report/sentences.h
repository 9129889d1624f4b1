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

/// What the predicted damage of a run leaves out; empty: nothing, or nothing is predicted.
std::string prediction_note(const PointGrid& grid);

/// By the run's default metric: the best policy at the budget nearest a fifth of the prompt, and what can be said about
/// its lead; the smallest budget that keeps the damage small; how far the best is from the best oracle at the first
/// budget, else how much memory it keeps there. Those that the data can answer.
std::vector<std::string> run_sentences(const PointGrid& grid);
/// What eviction gains most in throughput, of all frontiers, where the damage that they are judged by stays small (the
/// output error, where that damage is `partial`), or how the rows compare without eviction. At most one. `partial`:
/// what is predicted leaves something out (prediction_note).
std::vector<std::string> plan_sentences(const PlanContents& plan, bool partial);

}  // namespace evictsim::analysis

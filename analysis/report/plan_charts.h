#pragma once
/// \file
/// What a report shows of a plan file, found in its rows: which settings differ, which rows stand together.

#include <cstdint>
#include <string>
#include <vector>

#include "analysis/plan_file.h"

namespace evictsim::analysis {

/// Rows of one deployment under one workload, by place in the plan.
struct PlanGroup {
  std::string title;  ///< the settings that tell it from the other groups; of a single one, model and GPU
  std::vector<std::size_t> rows;
};

/// Settings with more than one value.
std::vector<PlanSetting> differing_settings(const PlanContents& plan);
/// One text per row, of the settings that differ and the rate if it does: "policy snapkv, budget 0.2".
std::vector<std::string> row_labels(const PlanContents& plan);
/// Rows that differ in policy and budget only and are marked on or off a frontier.
std::vector<PlanGroup> frontier_groups(const PlanContents& plan);
/// A damage that a frontier is drawn against.
struct FrontierMeasure {
  const PlanColumn* column;
  const char* title;
  const char* unit;              ///< empty: none
  std::vector<std::uint8_t> on;  ///< by row of the group: 1 where no other row has more throughput at no more damage
};
/// Predicted KL where every row of the group has it, then output error; the first is the one that plan.csv marks by.
/// Policies that see the future cannot be deployed: they are not on the frontier, and keep nobody off it.
std::vector<FrontierMeasure> frontier_measures(const PlanContents& plan, const PlanGroup& group);
/// The column that a frontier's rows were compared by: goodput where it was searched, else output tokens per second.
const PlanColumn& throughput_column(const PlanContents& plan, const PlanGroup& group);
/// Rows that differ in the rate only, ascending; groups of two rates or more.
std::vector<PlanGroup> load_groups(const PlanContents& plan);
/// Rows with the same lines of the KV budget.
std::vector<PlanGroup> budget_groups(const PlanContents& plan);

/// The column of that name. It must exist.
const PlanColumn& plan_column(const char* name);

}  // namespace evictsim::analysis

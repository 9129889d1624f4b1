#include "analysis/summary.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <utility>

namespace evictsim::analysis {

std::vector<PointSummary> summarise(const std::vector<RunRow>& rows) {
  std::vector<PointSummary> summaries;
  std::vector<std::array<std::vector<double>, metric_count>> values;
  std::map<std::pair<std::string, std::string>, std::size_t> places;
  for (const RunRow& row : rows) {
    const auto [place, is_new] = places.try_emplace({row.policy, row.budget}, summaries.size());
    if (is_new) {
      summaries.push_back({.policy = row.policy, .budget = row.budget, .sequences = 0, .metrics = {}});
      values.emplace_back();
    }
    if (!row.ok()) continue;
    ++summaries[place->second].sequences;
    for (std::size_t metric = 0; metric < metric_count; ++metric) {
      if (!std::isnan(row.metrics[metric])) values[place->second][metric].push_back(row.metrics[metric]);
    }
  }
  for (std::size_t index = 0; index < summaries.size(); ++index) {
    for (std::size_t metric = 0; metric < metric_count; ++metric) {
      summaries[index].metrics[metric] =
          within_range(static_cast<Metric>(metric), student_estimate(values[index][metric]));
    }
  }
  return summaries;
}

std::vector<PolicySummary> summarise_over_budgets(const std::vector<RunRow>& rows) {
  struct Sums {
    double regret = 0, gain = 0;
  };
  std::vector<PolicySummary> summaries;
  std::vector<std::vector<Sums>> by_sequence;
  std::map<std::pair<std::string, std::string>, std::size_t> places;
  std::map<std::tuple<std::string, std::string, std::string>, std::size_t> sequences;
  for (const RunRow& row : rows) {
    const auto [place, is_new] = places.try_emplace({row.trace, row.policy}, summaries.size());
    if (is_new) {
      summaries.push_back({.trace = row.trace, .policy = row.policy, .budgets = {}, .normalised_regret = {}});
      by_sequence.emplace_back();
    }
    if (std::isnan(row[Metric::regret]) || std::isnan(row[Metric::oracle_gain])) continue;
    std::vector<std::string>& budgets = summaries[place->second].budgets;
    if (std::find(budgets.begin(), budgets.end(), row.budget) == budgets.end()) budgets.push_back(row.budget);
    std::vector<Sums>& sums = by_sequence[place->second];
    const auto [sequence, first] = sequences.try_emplace({row.trace, row.policy, row.sequence}, sums.size());
    if (first) sums.emplace_back();
    sums[sequence->second].regret += row[Metric::regret];
    sums[sequence->second].gain += row[Metric::oracle_gain];
  }
  for (std::size_t index = 0; index < summaries.size(); ++index) {
    std::vector<double> ratios;
    for (const Sums& sums : by_sequence[index]) {
      if (sums.gain >= smallest_oracle_gain) ratios.push_back(sums.regret / sums.gain);
    }
    summaries[index].normalised_regret = within_range(Metric::normalised_regret, student_estimate(ratios));
  }
  return summaries;
}

}  // namespace evictsim::analysis

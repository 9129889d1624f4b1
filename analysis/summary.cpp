#include "analysis/summary.h"

#include <cmath>
#include <map>
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

}  // namespace evictsim::analysis

#include "analysis/report/ranking.h"

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <map>
#include <utility>

#include "analysis/pareto_front.h"

namespace evictsim::analysis {
namespace {

bool is_candidate(const PointGrid& grid, std::size_t policy) {
  return grid.policies()[policy].kind == PolicyKind::policy;
}

bool holds_to_budget(const PointGrid& grid, std::size_t policy, std::size_t budget) {
  return grid.at(policy, budget).within.value_or(true);
}

}  // namespace

Fronts fronts(const PointGrid& grid, const ShownMetric& metric) {
  std::vector<double> shares(grid.size(), not_available), bytes(grid.size(), not_available),
      costs(grid.size(), not_available);
  const std::size_t budgets = grid.budgets().size();
  for (std::size_t place = 0; place < grid.size(); ++place) {
    const std::size_t policy = place / budgets, budget = place % budgets;
    if (!is_candidate(grid, policy)) continue;
    const PointSummary& summary = grid.at(policy, budget).summary;
    costs[place] = metric.cost(summary[metric.metric].mean);
    bytes[place] = summary[Metric::kept_bytes].mean;
    if (holds_to_budget(grid, policy, budget)) shares[place] = grid.budgets()[budget].share;
  }
  return {pareto_front(shares, costs), pareto_front(bytes, costs)};
}

std::optional<bool> PairedDifference::significant() const {
  if (std::isnan(estimate.low)) return std::nullopt;
  return estimate.low > 0 || estimate.high < 0;
}

PairedDifference paired_difference(std::span<const PointGrid::SequenceValue> left,
                                   std::span<const PointGrid::SequenceValue> right) {
  std::map<std::pair<std::string, std::string>, double> of_right;
  for (const PointGrid::SequenceValue& value : right)
    of_right.emplace(std::pair(value.trace, value.sequence), value.value);
  std::vector<double> differences;
  for (const PointGrid::SequenceValue& value : left) {
    const auto other = of_right.find({value.trace, value.sequence});
    if (other != of_right.end()) differences.push_back(value.value - other->second);
  }
  PairedDifference paired;
  paired.estimate = student_estimate(differences);
  const auto count = static_cast<double>(differences.size());
  if (std::isnan(paired.estimate.low)) return paired;
  double squares = 0;
  for (const double difference : differences) {
    squares += (difference - paired.estimate.mean) * (difference - paired.estimate.mean);
  }
  const double standard_error = std::sqrt(squares / (count - 1) / count);
  if (standard_error == 0) {
    paired.p_value = paired.estimate.mean == 0 ? 1 : 0;
    return paired;
  }
  const boost::math::students_t student(count - 1);
  const double t = std::abs(paired.estimate.mean) / standard_error;
  paired.p_value = 2 * boost::math::cdf(boost::math::complement(student, t));
  return paired;
}

std::vector<BestPolicy> best_policies(const PointGrid& grid, const ShownMetric& metric) {
  std::vector<BestPolicy> best;
  for (std::size_t budget = 0; budget < grid.budgets().size(); ++budget) {
    std::vector<std::pair<double, std::size_t>> order;
    for (std::size_t policy = 0; policy < grid.policies().size(); ++policy) {
      const double cost = metric.cost(grid.at(policy, budget).summary[metric.metric].mean);
      if (is_candidate(grid, policy) && holds_to_budget(grid, policy, budget) && !std::isnan(cost)) {
        order.emplace_back(cost, policy);
      }
    }
    if (order.empty()) continue;
    std::sort(order.begin(), order.end());
    BestPolicy& found = best.emplace_back();
    found.budget = budget;
    found.policy = order.front().second;
    found.value = grid.value(metric, found.policy, budget);
    std::size_t behind = 1;
    for (; behind < order.size() && order[behind].first == order.front().first; ++behind) {
      found.ties.push_back(order[behind].second);
    }
    if (behind == order.size()) continue;
    found.next = order[behind].second;
    found.next_value = grid.at(*found.next, budget).summary[metric.metric].mean;
    found.apart =
        paired_difference(grid.by_sequence(metric, found.policy, budget), grid.by_sequence(metric, *found.next, budget))
            .significant();
  }
  return best;
}

}  // namespace evictsim::analysis

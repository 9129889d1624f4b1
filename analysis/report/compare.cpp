#include "analysis/report/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "analysis/csv.h"
#include "analysis/report/sentences.h"
#include "analysis/text_table.h"

namespace evictsim::analysis {
namespace {

/// Values by sequence with the trace's checksum in place of its path: the same trace may lie elsewhere.
std::vector<PointGrid::SequenceValue> keyed(const PointGrid& grid, const ShownMetric& metric, std::size_t policy,
                                            std::size_t budget) {
  std::vector<PointGrid::SequenceValue> values = grid.by_sequence(metric, policy, budget);
  const auto& inputs = grid.contents().provenance.inputs;
  for (PointGrid::SequenceValue& value : values) {
    const auto input = std::find_if(inputs.begin(), inputs.end(),
                                    [&](const Provenance::Input& one) { return one.path == value.trace; });
    if (input != inputs.end() && !input->checksum.empty()) value.trace = input->checksum;
  }
  return values;
}

/// Mean of those of `values` whose sequence is among `others`.
double mean_of_shared(const std::vector<PointGrid::SequenceValue>& values,
                      const std::vector<PointGrid::SequenceValue>& others) {
  std::set<std::pair<std::string_view, std::string_view>> known;
  for (const PointGrid::SequenceValue& other : others) known.emplace(other.trace, other.sequence);
  double sum = 0, count = 0;
  for (const PointGrid::SequenceValue& value : values) {
    if (!known.contains({value.trace, value.sequence})) continue;
    sum += value.value;
    ++count;
  }
  return count > 0 ? sum / count : not_available;
}

std::map<std::pair<std::string, std::string>, std::pair<std::size_t, std::size_t>> points_of(const PointGrid& grid) {
  std::map<std::pair<std::string, std::string>, std::pair<std::size_t, std::size_t>> points;
  for (std::size_t policy = 0; policy < grid.policies().size(); ++policy) {
    for (std::size_t budget = 0; budget < grid.budgets().size(); ++budget) {
      if (grid.at(policy, budget).rows.empty()) continue;
      points.emplace(std::pair(grid.policies()[policy].about.name, grid.budgets()[budget].text),
                     std::pair(policy, budget));
    }
  }
  return points;
}

std::string verdict(const ComparedPoint& point, const ShownMetric& metric) {
  if (std::isnan(point.left)) return "no sequence in common";
  const std::optional<bool> significant = point.difference.significant();
  if (!significant) return "one sequence";
  if (!*significant) return "no difference shown";
  const bool lower = point.difference.estimate.mean < 0;
  if (metric.better == Better::neither) return lower ? "lower" : "higher";
  return lower == (metric.better == Better::lower) ? "better" : "worse";
}

}  // namespace

std::vector<ComparedPoint> compare(const PointGrid& left, const PointGrid& right, const ShownMetric& metric) {
  std::vector<ComparedPoint> compared;
  const auto others = points_of(right);
  for (std::size_t policy = 0; policy < left.policies().size(); ++policy) {
    for (std::size_t budget = 0; budget < left.budgets().size(); ++budget) {
      const auto other = others.find({left.policies()[policy].about.name, left.budgets()[budget].text});
      if (left.at(policy, budget).rows.empty() || other == others.end()) continue;
      const auto mine = keyed(left, metric, policy, budget);
      const auto theirs = keyed(right, metric, other->second.first, other->second.second);
      compared.push_back({other->first.first, other->first.second, mean_of_shared(mine, theirs),
                          mean_of_shared(theirs, mine), paired_difference(theirs, mine)});
    }
  }
  return compared;
}

std::string comparison_text(const PointGrid& left, const PointGrid& right, const ShownMetric& metric) {
  const std::vector<ComparedPoint> points = compare(left, right, metric);
  std::string text = fmt::format("{} ({}): B - A\n  A: {}\n  B: {}\n\n", metric.title, metric.unit,
                                 terminal_text(left.contents().path), terminal_text(right.contents().path));
  std::vector<std::vector<std::string>> rows = {
      {"policy", "budget", "A", "B", "difference", "low", "high", "p", "sequences", "B is"}};
  std::size_t judged = 0, single = 0;
  for (const ComparedPoint& point : points) {
    const Estimate& difference = point.difference.estimate;
    if (point.difference.significant()) ++judged;
    if (difference.count == 1) ++single;
    rows.push_back({terminal_text(point.policy), terminal_text(point.budget), rounded(point.left), rounded(point.right),
                    rounded(difference.mean), rounded(difference.low), rounded(difference.high),
                    rounded(point.difference.p_value), std::to_string(difference.count), verdict(point, metric)});
  }
  if (points.empty()) return text + "The two runs have no policy at one budget in common.\n";
  text += aligned(rows);
  const std::size_t only_left = points_of(left).size() - points.size(),
                    only_right = points_of(right).size() - points.size();
  if (only_left + only_right > 0) {
    text += fmt::format("\n{} of A and {} of B are not in the other run.\n", counted(only_left, "point", "points"),
                        counted(only_right, "point", "points"));
  }
  if (judged > 0) {
    text += fmt::format(
        "\nPaired over the sequences that both runs hold; Student's 95 % interval and t test. Of {} about "
        "{} would look significant by chance alone.\n",
        counted(judged, "comparison", "comparisons"), rounded(static_cast<double>(judged) / 20));
  }
  if (single > 0) {
    text +=
        "\nOver one sequence no significance can be computed: replay several to know whether a difference is one of "
        "the policies.\n";
  }
  return text;
}

std::string comparison_csv(const PointGrid& left, const PointGrid& right) {
  std::string text = csv_line(std::vector<std::string>{"metric", "policy", "budget", "a", "b", "difference",
                                                       "difference_low", "difference_high", "p_value", "sequences"});
  for (const ShownMetric& metric : shown_metrics()) {
    if (!left.has(metric) || !right.has(metric)) continue;
    for (const ComparedPoint& point : compare(left, right, metric)) {
      const Estimate& difference = point.difference.estimate;
      text += csv_line(std::vector<std::string>{metric.name(), point.policy, point.budget, decimal(point.left),
                                                decimal(point.right), decimal(difference.mean), decimal(difference.low),
                                                decimal(difference.high), decimal(point.difference.p_value),
                                                std::to_string(difference.count)});
    }
  }
  return text;
}

}  // namespace evictsim::analysis

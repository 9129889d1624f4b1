#include "analysis/damage/ranking.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

namespace evictsim::analysis {
namespace {

using Sequence = std::pair<std::string, std::string>;

/// The parts of a status that are about the prediction itself.
void add_remarks(const std::string& status, std::vector<std::string>& remarks) {
  for (std::size_t begin = 0; begin < status.size();) {
    const std::size_t end = std::min(status.find("; ", begin), status.size());
    const std::string remark = status.substr(begin, end - begin);
    const bool known = std::find(remarks.begin(), remarks.end(), remark) != remarks.end();
    if (remark != "ok" && remark != "no band" && !known) remarks.push_back(remark);
    begin = end + 2;
  }
}

/// What all rows of a budget are ranked by.
std::string measure_of(const std::vector<const RunRow*>& rows) {
  std::set<std::string> kinds;
  bool predicted = true;
  for (const RunRow* row : rows) {
    if (!row->ok()) continue;
    predicted = predicted && !std::isnan((*row)[Metric::predicted_kl]);
    kinds.insert(row->damage_index_kind);
  }
  if (predicted) return "predicted_kl";
  // Lengths of different kinds cannot be compared.
  return kinds.size() == 1 && !kinds.begin()->empty() ? *kinds.begin() : "squared_error";
}

double damage_of(const RunRow& row, const std::string& measure) {
  if (measure == "predicted_kl") return row[Metric::predicted_kl];
  return row[measure == "squared_error" ? Metric::squared_error : Metric::damage_index];
}

BudgetRanking ranking_of(const std::string& budget, const std::vector<const RunRow*>& rows) {
  BudgetRanking ranking{.budget = budget, .measure = measure_of(rows), .policies = {}, .without_damage = {}};
  std::map<std::string, std::map<Sequence, const RunRow*>> by_policy;
  for (const RunRow* row : rows) {
    auto& of_policy = by_policy[row->policy];
    if (row->ok() && !std::isnan(damage_of(*row, ranking.measure))) of_policy[{row->trace, row->sequence}] = row;
  }
  std::map<Sequence, std::size_t> counts;
  std::size_t compared = 0;
  for (const auto& [policy, of_policy] : by_policy) {
    if (of_policy.empty()) {
      ranking.without_damage.push_back(policy);
      continue;
    }
    ++compared;
    for (const auto& [sequence, row] : of_policy) ++counts[sequence];
  }
  for (const auto& [policy, of_policy] : by_policy) {
    if (of_policy.empty()) continue;
    RankedPolicy ranked{.policy = policy, .damage = 0, .low = 0, .high = 0};
    std::vector<std::string> remarks;
    for (const auto& [sequence, row] : of_policy) {
      if (counts[sequence] != compared) continue;
      ranked.damage += damage_of(*row, ranking.measure);
      ranked.low += (*row)[Metric::predicted_kl_low];
      ranked.high += (*row)[Metric::predicted_kl_high];
      ++ranked.sequences;
      add_remarks(row->prediction_status, remarks);
    }
    if (ranked.sequences == 0) {
      ranking.without_damage.push_back(policy);
      continue;
    }
    const auto count = static_cast<double>(ranked.sequences);
    ranked.damage /= count;
    const bool bands = ranking.measure == "predicted_kl";
    ranked.low = bands ? ranked.low / count : not_available;
    ranked.high = bands ? ranked.high / count : not_available;
    if (bands) ranked.remark = fmt::format("{}", fmt::join(remarks, "; "));
    ranking.policies.push_back(std::move(ranked));
  }
  std::stable_sort(ranking.policies.begin(), ranking.policies.end(),
                   [](const RankedPolicy& a, const RankedPolicy& b) { return a.damage < b.damage; });
  std::vector<double> damages;
  for (const RankedPolicy& ranked : ranking.policies) damages.push_back(ranked.damage);
  const std::vector<std::size_t> places = competition_ranks(damages);
  for (std::size_t at = 0; at < ranking.policies.size(); ++at) {
    ranking.policies[at].place = places[at];
    // Without bands the comparison is false.
    ranking.policies[at].like_previous = at > 0 && ranking.policies[at].low <= ranking.policies[at - 1].high;
  }
  return ranking;
}

}  // namespace

std::vector<std::size_t> competition_ranks(std::span<const double> ascending) {
  std::vector<std::size_t> places;
  for (std::size_t at = 0; at < ascending.size(); ++at) {
    places.push_back(at > 0 && ascending[at] == ascending[at - 1] ? places.back() : at + 1);
  }
  return places;
}

std::vector<BudgetRanking> rank_policies(const std::vector<RunRow>& rows) {
  std::vector<std::pair<std::string, std::vector<const RunRow*>>> budgets;
  for (const RunRow& row : rows) {
    auto found =
        std::find_if(budgets.begin(), budgets.end(), [&](const auto& known) { return known.first == row.budget; });
    if (found == budgets.end()) found = budgets.insert(budgets.end(), {row.budget, {}});
    found->second.push_back(&row);
  }
  std::vector<BudgetRanking> rankings;
  for (const auto& [budget, of_budget] : budgets) rankings.push_back(ranking_of(budget, of_budget));
  return rankings;
}

std::string text_of(const std::vector<BudgetRanking>& rankings, double coverage) {
  std::string text;
  bool any_band = false;
  bool any_index = false;
  bool any_tie = false;
  for (const BudgetRanking& ranking : rankings) {
    const bool predicted = ranking.measure == "predicted_kl";
    any_index = any_index || !predicted;
    text += fmt::format(
        "budget {}, by {}:\n", ranking.budget,
        predicted ? "predicted KL in nats" : fmt::format("damage index ({}), which has no unit", ranking.measure));
    std::size_t widest = 0;
    for (const RankedPolicy& policy : ranking.policies) widest = std::max(widest, policy.policy.size());
    for (std::size_t at = 0; at < ranking.policies.size(); ++at) {
      const RankedPolicy& policy = ranking.policies[at];
      const bool tied = at > 0 && policy.place == ranking.policies[at - 1].place;
      any_tie = any_tie || tied;
      const bool band = !std::isnan(policy.low);
      any_band = any_band || band;
      const char mark = tied ? '=' : (policy.like_previous ? '~' : ' ');
      std::string line =
          fmt::format("{} {:>3}  {:<{}}  {:>9.3g}", mark, policy.place, policy.policy, widest, policy.damage);
      if (band) line += fmt::format("  [{:.3g}, {:.3g}]", policy.low, policy.high);
      if (!policy.remark.empty()) line += "  " + policy.remark;
      text += line + "\n";
    }
    if (!ranking.without_damage.empty()) {
      text += fmt::format("  not ranked, nothing to rank them by: {}\n", fmt::join(ranking.without_damage, ", "));
    }
    text += "\n";
  }
  if (any_tie) text += "=: the same number as the policy above, and the same place.\n";
  if (any_band) {
    text += fmt::format(
        "Bands hold for {:.0f} % of points. ~: its band overlaps that of the policy above; the two are not "
        "distinguishable.\n",
        100 * coverage);
  } else if (!rankings.empty()) {
    text += any_index ? "No bands: an index has none. `evictsim calibrate` makes predictions with bands.\n"
                      : "No bands: they need a calibration of enough texts, and all of its layers in the trace.\n";
  }
  return text;
}

}  // namespace evictsim::analysis

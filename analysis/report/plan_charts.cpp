#include "analysis/report/plan_charts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <string_view>

#include "analysis/pareto_front.h"
#include "analysis/plan_eviction.h"

namespace evictsim::analysis {
namespace {

bool differs(const PlanContents& plan, const PlanColumn& column) {
  const auto other = [&](const PlanRow& row) { return cell(row, column) != cell(plan.rows.front(), column); };
  return std::any_of(plan.rows.begin(), plan.rows.end(), other);
}

/// The settings of a row without those in `without`.
std::string key_of(const PlanRow& row, const std::set<std::string_view>& without) {
  std::string key;
  for (const PlanSetting& setting : plan_settings()) {
    if (!without.contains(setting.column->name)) key += cell(row, *setting.column) + '\n';
  }
  return key;
}

std::string settings_text(const PlanContents& plan, const PlanRow& row, const std::set<std::string_view>& without) {
  std::string text;
  for (const PlanSetting& setting : differing_settings(plan)) {
    const std::string value = cell(row, *setting.column);
    if (without.contains(setting.column->name) || value.empty()) continue;
    text += (text.empty() ? "" : ", ") + std::string(setting.title) + " " + value;
  }
  return text;
}

std::string title_of(const PlanContents& plan, const PlanRow& row, const std::set<std::string_view>& without) {
  const std::string text = settings_text(plan, row, without);
  return text.empty() ? fmt::format("{} on {}", row.model, row.gpu) : text;
}

/// Groups in the order of their first rows; rows of an empty key are left out.
std::vector<PlanGroup> grouped(const PlanContents& plan, const std::set<std::string_view>& without,
                               const std::function<std::string(std::size_t)>& key) {
  std::vector<PlanGroup> groups;
  std::map<std::string, std::size_t> places;
  for (std::size_t row = 0; row < plan.rows.size(); ++row) {
    const std::string text = key(row);
    if (text.empty()) continue;
    const auto [place, is_new] = places.try_emplace(text, groups.size());
    if (is_new) groups.push_back({title_of(plan, plan.rows[row], without), {}});
    groups[place->second].rows.push_back(row);
  }
  return groups;
}

const std::set<std::string_view> eviction = {"policy", "budget"};

}  // namespace

const PlanColumn& plan_column(const char* name) {
  const auto columns = plan_columns();
  return *std::find_if(columns.begin(), columns.end(),
                       [&](const PlanColumn& column) { return std::string_view(column.name) == name; });
}

std::vector<PlanSetting> differing_settings(const PlanContents& plan) {
  std::vector<PlanSetting> found;
  for (const PlanSetting& setting : plan_settings()) {
    if (!plan.rows.empty() && differs(plan, *setting.column)) found.push_back(setting);
  }
  return found;
}

std::vector<std::string> row_labels(const PlanContents& plan) {
  std::vector<std::string> labels;
  const bool rates = !plan.rows.empty() && differs(plan, plan_column("rate"));
  for (const PlanRow& row : plan.rows) {
    std::string label = settings_text(plan, row, {});
    if (rates && !std::isnan(row.rate)) label += fmt::format("{}rate {:.4g}", label.empty() ? "" : ", ", row.rate);
    labels.push_back(label.empty() ? fmt::format("{} on {}", row.model, row.gpu) : label);
  }
  return labels;
}

std::vector<PlanGroup> frontier_groups(const PlanContents& plan) {
  return grouped(plan, eviction, [&](std::size_t index) {
    const PlanRow& row = plan.rows[index];
    if (std::isnan(row.frontier)) return std::string();
    // A searched rate is a result, a given one tells groups apart.
    return key_of(row, eviction) + (std::isnan(row.goodput) ? fmt::format("{}", row.rate) : "goodput");
  });
}

std::vector<FrontierMeasure> frontier_measures(const PlanContents& plan, const PlanGroup& group) {
  const PlanColumn& throughput = throughput_column(plan, group);
  std::vector<FrontierMeasure> measures = {{&plan_column("predicted_kl"), "predicted damage", "nats", {}},
                                           {&plan_column("output_error"), "output error", "", {}}};
  for (FrontierMeasure& measure : measures) {
    std::vector<double> damages, costs;
    for (const std::size_t index : group.rows) {
      const PlanRow& row = plan.rows[index];
      damages.push_back(is_oracle(row.policy) ? PlanRow::none : row.*measure.column->number);
      costs.push_back(-(row.*throughput.number));
    }
    measure.on = pareto_front(damages, costs);
  }
  const bool predicted = std::none_of(group.rows.begin(), group.rows.end(),
                                      [&](std::size_t row) { return std::isnan(plan.rows[row].predicted_kl); });
  if (!predicted) measures.erase(measures.begin());
  return measures;
}

const PlanColumn& throughput_column(const PlanContents& plan, const PlanGroup& group) {
  const bool searched = std::any_of(group.rows.begin(), group.rows.end(),
                                    [&](std::size_t row) { return !std::isnan(plan.rows[row].goodput); });
  return plan_column(searched ? "goodput" : "output_tokens_per_second");
}

std::vector<PlanGroup> load_groups(const PlanContents& plan) {
  std::vector<PlanGroup> groups = grouped(plan, {}, [&](std::size_t index) {
    const PlanRow& row = plan.rows[index];
    return std::isnan(row.rate) || std::isnan(row.ttft_mean) || !std::isnan(row.goodput) ? std::string()
                                                                                         : key_of(row, {});
  });
  for (PlanGroup& group : groups) {
    std::stable_sort(group.rows.begin(), group.rows.end(),
                     [&](std::size_t left, std::size_t right) { return plan.rows[left].rate < plan.rows[right].rate; });
  }
  std::erase_if(groups, [&](const PlanGroup& group) {
    return plan.rows[group.rows.front()].rate == plan.rows[group.rows.back()].rate;
  });
  return groups;
}

std::vector<PlanGroup> budget_groups(const PlanContents& plan) {
  static const std::set<std::string_view> no_matter = {"policy", "budget", "workload", "seed"};
  return grouped(plan, no_matter, [&](std::size_t index) {
    std::string key;
    for (const models::KvBudgetLine& line : plan.backgrounds[index].kv_budget) {
      key += fmt::format("{}\n{}\n{}\n", line.name, line.bytes, line.how);
    }
    return key;
  });
}

}  // namespace evictsim::analysis

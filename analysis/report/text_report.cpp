#include "analysis/report/text_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string_view>

#include "analysis/plan_eviction.h"
#include "analysis/report/plan_charts.h"
#include "analysis/report/ranking.h"
#include "analysis/report/sentences.h"
#include "analysis/table.h"
#include "analysis/text_table.h"

namespace evictsim::analysis {
namespace {

/// Policies by mean over budgets, the best first; where no direction is better, by name.
std::vector<std::size_t> ranked(const PointGrid& grid, const ShownMetric& metric) {
  std::vector<std::pair<double, std::size_t>> order;
  for (std::size_t policy = 0; policy < grid.policies().size(); ++policy) {
    double sum = 0, count = 0;
    for (std::size_t budget = 0; budget < grid.budgets().size(); ++budget) {
      const double value = grid.at(policy, budget).summary[metric.metric].mean;
      if (std::isnan(value)) continue;
      sum += metric.cost(value);
      ++count;
    }
    order.emplace_back(count > 0 ? sum / count : std::numeric_limits<double>::infinity(), policy);
  }
  if (metric.better != Better::neither) std::sort(order.begin(), order.end());
  std::vector<std::size_t> policies;
  for (const auto& [cost, policy] : order) policies.push_back(policy);
  return policies;
}

/// Narrow enough for eight budgets beside each other.
std::string short_cell(double value) {
  constexpr double small = 1e-3;
  return std::abs(value) < small ? fmt::format("{:.2g}", value) : rounded(value);
}

std::string run_text(const PointGrid& grid, const ShownMetric& metric, std::size_t width) {
  if (!grid.has(metric)) {
    return fmt::format("{}: the run holds no value of it ({}).\n", metric.title, metric.name());
  }
  std::vector<std::vector<std::string>> rows = {{"policy", ""}};
  for (const PointGrid::Budget& budget : grid.budgets()) rows.front().push_back(terminal_text(budget.text));
  const std::vector<std::uint8_t> front =
      metric.better == Better::neither ? std::vector<std::uint8_t>(grid.size(), 0) : fronts(grid, metric).budget;
  double lowest = std::numeric_limits<double>::infinity(), highest = -lowest;
  for (std::size_t place = 0; place < grid.size(); ++place) {
    const double value =
        grid.at(place / grid.budgets().size(), place % grid.budgets().size()).summary[metric.metric].mean;
    if (std::isnan(value)) continue;
    lowest = std::min(lowest, value);
    highest = std::max(highest, value);
  }
  bool oracles = false, over = false;
  for (const std::size_t policy : ranked(grid, metric)) {
    const PointGrid::Policy& of = grid.policies()[policy];
    std::vector<double> values;
    std::vector<std::string> cells;
    for (std::size_t budget = 0; budget < grid.budgets().size(); ++budget) {
      values.push_back(grid.at(policy, budget).summary[metric.metric].mean);
      const bool exceeds = !grid.at(policy, budget).within.value_or(true) && of.kind != PolicyKind::full;
      over = over || exceeds;
      cells.push_back(short_cell(values.back()) + (front[policy * grid.budgets().size() + budget] != 0 ? "*"
                                                   : exceeds                                           ? "+"
                                                                                                       : " "));
    }
    oracles = oracles || of.kind == PolicyKind::oracle;
    std::vector<std::string>& row = rows.emplace_back();
    row = {terminal_text(of.about.name) + (of.kind == PolicyKind::oracle ? " (oracle)" : ""),
           sparkline(values, lowest, highest)};
    row.insert(row.end(), cells.begin(), cells.end());
  }
  std::string text = fmt::format("{} ({}), by budget:\n\n{}", metric.title, metric.unit, wrapped(rows, 2, width));
  if (std::any_of(front.begin(), front.end(), [](std::uint8_t on) { return on != 0; })) {
    text += "* on the Pareto front: nothing is better at this budget or a smaller one\n";
  }
  if (over) text += "+ keeps more bytes in HBM than the budget says\n";
  return text;
}

std::string best_text(const PointGrid& grid, const ShownMetric& metric, std::size_t width) {
  if (metric.better == Better::neither) return {};
  std::vector<std::vector<std::string>> rows = {{"budget", "best", "next", metric.name(), "next's", "apart"}};
  constexpr std::size_t most_ties = 2;
  bool ties = false;
  const auto name_of = [&](std::size_t policy) { return terminal_text(grid.policies()[policy].about.name); };
  for (const BestPolicy& best : best_policies(grid, metric)) {
    std::string first = name_of(best.policy);
    for (std::size_t i = 0; i < std::min(best.ties.size(), most_ties); ++i) first += " = " + name_of(best.ties[i]);
    if (best.ties.size() > most_ties) first += fmt::format(" = {} more", best.ties.size() - most_ties);
    ties = ties || !best.ties.empty();
    rows.push_back({terminal_text(grid.budgets()[best.budget].text), first, best.next ? name_of(*best.next) : "-",
                    rounded(best.value.mean), rounded(best.next_value),
                    !best.next    ? "-"
                    : !best.apart ? "not known"
                    : *best.apart ? "yes"
                                  : "no"});
  }
  if (rows.size() == 1) return {};
  return "\n" + wrapped(rows, 3, width) + (ties ? "= ties: exactly equal\n" : "");
}

void drop_column(std::vector<std::vector<std::string>>& rows, std::size_t column) {
  for (std::vector<std::string>& row : rows) row.erase(row.begin() + static_cast<std::ptrdiff_t>(column));
}

/// Leaves out columns without a value in any row, and those that tell no row from another: of the GPUs and the rate.
void drop_idle_columns(std::vector<std::vector<std::string>>& rows) {
  for (std::size_t column = rows.front().size(); column-- > 0;) {
    const bool setting = rows.front()[column] == "GPUs" || rows.front()[column] == "rate";
    const bool alike = setting && rows.size() > 2 &&
                       std::all_of(rows.begin() + 1, rows.end(),
                                   [&](const std::vector<std::string>& row) { return row[column] == rows[1][column]; });
    const bool empty = std::all_of(rows.begin() + 1, rows.end(), [&](const std::vector<std::string>& row) {
      return row[column] == "-" || row[column].empty();
    });
    if (empty || alike) drop_column(rows, column);
  }
}

std::string plan_text(const PlanContents& plan, std::size_t width) {
  std::vector<std::vector<std::string>> rows = {{"deployment", "GPUs", "rate", "tokens/s", "TTFT s", "p99", "TPOT ms",
                                                 "p99", "error", "KL", "frontier", "KV over time"}};
  const std::vector<std::string> labels = row_labels(plan);
  // The full cache has no damage, predicted or not.
  const bool predicted = std::any_of(plan.rows.begin(), plan.rows.end(), [](const PlanRow& row) {
    return row.policy != "full" && !std::isnan(row.predicted_kl);
  });
  std::vector<std::string> marks(plan.rows.size(), "-");
  std::set<std::string_view> measures;
  bool oracles = false;
  for (const PlanGroup& group : frontier_groups(plan)) {
    const FrontierMeasure measure = frontier_measures(plan, group).front();
    measures.insert(measure.title);
    for (std::size_t i = 0; i < group.rows.size(); ++i) {
      const bool oracle = is_oracle(plan.rows[group.rows[i]].policy);
      oracles = oracles || oracle;
      marks[group.rows[i]] = oracle ? "oracle" : measure.on[i] != 0 ? "yes" : "no";
    }
  }
  for (std::size_t index = 0; index < plan.rows.size(); ++index) {
    const PlanRow& row = plan.rows[index];
    const PlanSeries& series = plan.backgrounds[index].series;
    constexpr std::size_t most_blocks = 12;
    std::vector<double> used;
    const std::size_t step = (series.kv_tokens.size() + most_blocks - 1) / most_blocks;
    for (std::size_t i = 0; i < series.kv_tokens.size(); i += step) used.push_back(series.kv_tokens[i]);
    rows.push_back({terminal_text(labels[index]), rounded(row.gpus), rounded(row.rate),
                    rounded(row.output_tokens_per_second), rounded(row.ttft_mean), rounded(row.ttft_p99),
                    rounded(1000 * row.tpot_mean), rounded(1000 * row.tpot_p99), rounded(row.output_error),
                    predicted ? rounded(row.predicted_kl) : "-", marks[index],
                    sparkline(used, 0, series.kv_capacity_tokens)});
  }
  drop_idle_columns(rows);
  // The curves are the first to go where not everything fits.
  if (width_of(rows) > width && rows.front().back() == "KV over time") drop_column(rows, rows.front().size() - 1);
  std::string text = wrapped(rows, 1, width);
  if (!measures.empty()) {
    text += fmt::format("frontier: nobody serves more at no more {}{}\n", fmt::join(measures, " or "),
                        oracles ? "; oracles cannot be deployed and stand outside" : "");
  }
  return text;
}

}  // namespace

std::string text_report(const ReportInputs& inputs, const ShownMetric* metric, std::size_t width) {
  std::string head, notes, tables;
  for (const RunReader& reader : inputs.runs) {
    const PointGrid grid(reader.contents());
    head += terminal_text(asked(grid)) + "\n";
    for (const std::string& sentence : run_sentences(grid)) head += terminal_text(sentence) + "\n";
    const std::string note = prediction_note(grid);
    if (!note.empty()) notes += terminal_text(note) + "\n";
    const ShownMetric* preferred = grid.default_metric();
    const ShownMetric& shown = metric != nullptr      ? *metric
                               : preferred != nullptr ? *preferred
                                                      : shown_metrics().front();
    tables += "\n" + run_text(grid, shown, width) + best_text(grid, shown, width);
    for (const RunContents::Policy& policy : grid.left_out()) {
      tables += fmt::format("{}: {}\n", terminal_text(policy.name), terminal_text(policy.status));
    }
  }
  for (const PlanContents& plan : inputs.plans) {
    head += terminal_text(asked(plan)) + "\n";
    for (const std::string& sentence : plan_sentences(plan, !notes.empty())) head += terminal_text(sentence) + "\n";
    tables += "\n" + terminal_text(plan.path) + ":\n\n" + plan_text(plan, width);
  }
  if (!inputs.runs.empty()) head += std::string(open_loop_caveat) + "\n";
  return head + notes + tables;
}

}  // namespace evictsim::analysis

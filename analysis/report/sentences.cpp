#include "analysis/report/sentences.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "analysis/report/plan_charts.h"
#include "analysis/report/ranking.h"

namespace evictsim::analysis {
namespace {

/// The output error that a reader may still call small, and the budget that studies quote most.
constexpr double small_error = 0.1;
constexpr double usual_budget = 0.2;

const ShownMetric& output_error() { return shown_metrics().front(); }

/// Of `best`, the one whose budget is nearest to the usual one, in ratio.
const BestPolicy& at_usual_budget(const PointGrid& grid, const std::vector<BestPolicy>& best) {
  const auto distance = [&](const BestPolicy& found) {
    return std::abs(std::log(grid.budgets()[found.budget].share / usual_budget));
  };
  return *std::min_element(best.begin(), best.end(), [&](const BestPolicy& left, const BestPolicy& right) {
    return distance(left) < distance(right);
  });
}

std::string name_of(const PointGrid& grid, std::size_t policy) { return grid.policies()[policy].about.name; }

std::string interval_text(const Estimate& value, IntervalOver over) {
  if (std::isnan(value.low)) return {};
  return fmt::format(" (95 % interval {} to {} over {})", rounded(value.low), rounded(value.high),
                     over == IntervalOver::sequences ? "sequences" : "steps");
}

std::string best_sentence(const PointGrid& grid, const BestPolicy& found) {
  std::string text =
      fmt::format("At a budget of {}, {} moves the outputs of attention least: by {} of their length{}",
                  grid.budgets()[found.budget].text, name_of(grid, found.policy), rounded(found.value.mean),
                  interval_text(found.value, grid.interval_over(output_error())));
  if (!found.next) return text + "; no other policy of this run holds to that budget.";
  text += fmt::format(", before {} with {}", name_of(grid, *found.next), rounded(found.next_value));
  if (!found.apart) return text + "; over one sequence nothing can be said about how sure that order is.";
  return text + (*found.apart ? "; over the sequences of this run the two differ significantly."
                              : "; over the sequences of this run the two do not differ significantly.");
}

std::string budget_sentence(const PointGrid& grid, const std::vector<BestPolicy>& best) {
  for (const BestPolicy& found : best) {  // budgets ascend
    if (!(found.value.mean <= small_error)) continue;
    return fmt::format("The smallest budget that keeps the output error at {} or below is {}, with {} ({}).",
                       rounded(small_error), grid.budgets()[found.budget].text, name_of(grid, found.policy),
                       rounded(found.value.mean));
  }
  return fmt::format("No policy that holds to its budget keeps the output error at {} or below, up to a budget of {}.",
                     rounded(small_error), grid.budgets()[best.back().budget].text);
}

std::optional<std::string> oracle_sentence(const PointGrid& grid, const BestPolicy& found) {
  std::optional<std::size_t> oracle;
  double error = 0;
  for (std::size_t policy = 0; policy < grid.policies().size(); ++policy) {
    const double value = grid.at(policy, found.budget).summary[Metric::output_error].mean;
    if (grid.policies()[policy].kind != PolicyKind::oracle || !grid.at(policy, found.budget).within.value_or(true) ||
        std::isnan(value) || (oracle && value >= error)) {
      continue;
    }
    oracle = policy;
    error = value;
  }
  if (!oracle) return std::nullopt;
  std::string text = fmt::format("An oracle that sees the future, {}, would reach {} at the budget of {}",
                                 name_of(grid, *oracle), rounded(error), grid.budgets()[found.budget].text);
  if (error > 0 && found.value.mean >= error) {
    text += fmt::format(": {} is {} times as far off", name_of(grid, found.policy), rounded(found.value.mean / error));
  }
  return text + ".";
}

/// "poisson at 4 requests per second", as far as rows agree.
std::string workload_of(const PlanContents& plan) {
  const PlanRow& first = plan.rows.front();
  const bool one = std::all_of(plan.rows.begin(), plan.rows.end(),
                               [&](const PlanRow& row) { return row.workload == first.workload; });
  return one ? first.workload : "several workloads";
}

std::string values_of(const PlanContents& plan, std::string PlanRow::*member) {
  std::vector<std::string> values;
  for (const PlanRow& row : plan.rows) {
    if (std::find(values.begin(), values.end(), row.*member) == values.end()) values.push_back(row.*member);
  }
  if (values.size() > 3) return fmt::format("{} and {} more", values.front(), values.size() - 1);
  return fmt::format("{}", fmt::join(values, ", "));
}

}  // namespace

std::string rounded(double value) {
  if (std::isnan(value)) return "-";
  const double size = std::abs(value);
  if (size >= 1000 && size < 1e15) return fmt::format("{:.0f}", value);
  return fmt::format("{:.3g}", value);
}

std::string counted(std::size_t count, const std::string& one, const std::string& many) {
  return fmt::format("{} {}", count, count == 1 ? one : many);
}

std::string asked(const PointGrid& grid) {
  const RunContents& contents = grid.contents();
  std::int64_t prompt = 0, decoded = 0;
  for (const std::size_t row : grid.sequences()) {
    prompt += contents.rows[row].prompt_length;
    decoded += contents.rows[row].decode_rows;
  }
  std::vector<std::string> models;
  for (const Provenance::Input& input : contents.provenance.inputs) {
    if (std::find(models.begin(), models.end(), input.model) == models.end()) models.push_back(input.model);
  }
  return fmt::format(
      "{}: {} at {} on {} of {}, {} of prompt and {}{}.", contents.path,
      counted(grid.policies().size(), "policy", "policies"), counted(grid.budgets().size(), "budget", "budgets"),
      counted(grid.sequences().size(), "sequence", "sequences"), fmt::join(models, ", "),
      counted(static_cast<std::size_t>(std::max<std::int64_t>(prompt, 0)), "token", "tokens"),
      counted(static_cast<std::size_t>(std::max<std::int64_t>(decoded, 0)), "decoded row", "decoded rows"),
      contents.provenance.complete ? "" : "; the replay was interrupted");
}

std::string asked(const PlanContents& plan) {
  if (plan.rows.empty()) return fmt::format("{}: no rows.", plan.path);
  return fmt::format("{}: {} of {} on {} under {}{}.", plan.path,
                     counted(plan.rows.size(), "simulated deployment", "simulated deployments"),
                     values_of(plan, &PlanRow::model), values_of(plan, &PlanRow::gpu), workload_of(plan),
                     plan.provenance.complete ? "" : "; the plan was interrupted");
}

std::vector<std::string> run_sentences(const PointGrid& grid) {
  const std::vector<BestPolicy> best = best_policies(grid, output_error());
  if (best.empty()) return {};
  const BestPolicy& usual = at_usual_budget(grid, best);
  std::vector<std::string> sentences = {best_sentence(grid, usual), budget_sentence(grid, best)};
  if (const auto oracle = oracle_sentence(grid, usual)) sentences.push_back(*oracle);
  return sentences;
}

std::vector<std::string> plan_sentences(const PlanContents& plan) {
  const std::vector<PlanGroup> groups = frontier_groups(plan);
  for (const PlanGroup& group : groups) {
    const PlanColumn& throughput = throughput_column(plan, group);
    const auto value = [&](const PlanRow& row) { return row.*throughput.number; };
    const PlanRow* full = nullptr;
    const PlanRow* best = nullptr;
    for (const std::size_t index : group.rows) {
      const PlanRow& row = plan.rows[index];
      if (std::isnan(value(row))) continue;
      if (row.policy == "full") full = &row;
      if (row.policy != "full" && row.output_error <= small_error && (best == nullptr || value(row) > value(*best))) {
        best = &row;
      }
    }
    if (full == nullptr || !(value(*full) > 0)) continue;
    const std::string unit =
        std::string(throughput.name) == "goodput" ? "requests per second within the objective" : "tokens per second";
    if (best == nullptr) {
      return {
          fmt::format("On {}, no policy with an output error of {} or below was planned; the full cache serves {} {}.",
                      full->gpu, rounded(small_error), rounded(value(*full)), unit)};
    }
    return {
        fmt::format("On {}, {} at a budget of {} serves {} {}, {} times what the full cache does, at an output error "
                    "of {}.",
                    best->gpu, best->policy, rounded(best->budget), rounded(value(*best)), unit,
                    rounded(value(*best) / value(*full)), rounded(best->output_error))};
  }
  const PlanRow* fastest = nullptr;
  for (const PlanRow& row : plan.rows) {
    if (std::isnan(row.output_tokens_per_second)) continue;
    if (fastest == nullptr || row.output_tokens_per_second > fastest->output_tokens_per_second) fastest = &row;
  }
  if (fastest == nullptr) return {};
  const std::string label = row_labels(plan)[static_cast<std::size_t>(fastest - plan.rows.data())];
  return {
      fmt::format("The most is served by {}: {} tokens per second with a mean time to the first token of {} s and {} "
                  "ms per token.",
                  label, rounded(fastest->output_tokens_per_second), rounded(fastest->ttft_mean),
                  rounded(1000 * fastest->tpot_mean))};
}

}  // namespace evictsim::analysis

#include "analysis/report/sentences.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

#include "analysis/plan_eviction.h"
#include "analysis/report/plan_charts.h"
#include "analysis/report/ranking.h"

namespace evictsim::analysis {
namespace {

/// What a reader may still call small, of an output error as of a KL in nats (a perplexity a tenth higher), and the
/// budget that studies quote most.
constexpr double small_damage = 0.1;
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
  if (over == IntervalOver::calibration) {
    return fmt::format(" (band of the prediction {} to {})", rounded(value.low), rounded(value.high));
  }
  return fmt::format(" (95 % interval {} to {} over {})", rounded(value.low), rounded(value.high),
                     over == IntervalOver::sequences ? "sequences" : "steps");
}

/// "snapkv", or "snapkv, which ties with tova and 2 more,".
std::string best_name(const PointGrid& grid, const BestPolicy& found) {
  std::string text = name_of(grid, found.policy);
  if (found.ties.empty()) return text;
  text += ", which ties with " + name_of(grid, found.ties.front());
  if (found.ties.size() > 1) text += fmt::format(" and {} more", found.ties.size() - 1);
  return text + ",";
}

/// What the best policy does, before and after its value.
std::pair<std::string, std::string> achievement(const ShownMetric& metric) {
  switch (metric.metric) {
    case Metric::output_error:
      return {"moves the outputs of attention least: by", " of their length"};
    case Metric::predicted_kl:
      return {"is predicted to damage the model least: by a KL of", " nats of its next token"};
    default:
      return {fmt::format("is best by {}:", metric.title), ""};
  }
}

std::string best_sentence(const PointGrid& grid, const BestPolicy& found, const ShownMetric& metric) {
  const auto& [before, after] = achievement(metric);
  std::string text =
      fmt::format("At a budget of {}, {} {} {}{}{}", grid.budgets()[found.budget].text, best_name(grid, found), before,
                  rounded(found.value.mean), after, interval_text(found.value, grid.interval_over(metric)));
  if (!found.next) {
    return text + (found.ties.empty() ? "; no other policy of this run holds to that budget."
                                      : "; no further policy of this run holds to that budget.");
  }
  text += fmt::format(", before {} with {}", name_of(grid, *found.next), rounded(found.next_value));
  if (!found.apart) return text + "; over one sequence nothing can be said about how sure that order is.";
  return text + (*found.apart ? "; over the sequences of this run the two differ significantly."
                              : "; over the sequences of this run the two do not differ significantly.");
}

/// By predicted damage only where that is of the whole model; else by output error.
std::optional<std::string> budget_sentence(const PointGrid& grid, const ShownMetric& preferred) {
  const bool whole = preferred.metric == Metric::predicted_kl && prediction_note(grid).empty();
  const ShownMetric& metric = whole ? preferred : output_error();
  const std::vector<BestPolicy> best = best_policies(grid, metric);
  if (best.empty()) return std::nullopt;
  const std::string limit = fmt::format("the {} at {}{} or below", metric.title, rounded(small_damage),
                                        metric.metric == Metric::predicted_kl ? " nats" : "");
  for (const BestPolicy& found : best) {  // budgets ascend
    if (!(found.value.mean <= small_damage)) continue;
    return fmt::format("The smallest budget that keeps {} is {}, with {} ({}).", limit,
                       grid.budgets()[found.budget].text, name_of(grid, found.policy), rounded(found.value.mean));
  }
  return fmt::format("No policy that holds to its budget keeps {}, up to a budget of {}.", limit,
                     grid.budgets()[best.back().budget].text);
}

std::optional<std::string> oracle_sentence(const PointGrid& grid, const BestPolicy& found, const ShownMetric& metric) {
  std::optional<std::size_t> oracle;
  double best = 0;
  for (std::size_t policy = 0; policy < grid.policies().size(); ++policy) {
    const double value = grid.at(policy, found.budget).summary[metric.metric].mean;
    if (grid.policies()[policy].kind != PolicyKind::oracle || !grid.at(policy, found.budget).within.value_or(true) ||
        std::isnan(value) || (oracle && metric.cost(value) >= metric.cost(best))) {
      continue;
    }
    oracle = policy;
    best = value;
  }
  if (!oracle) return std::nullopt;
  std::string text = fmt::format("An oracle that sees the future, {}, would reach {} at the budget of {}",
                                 name_of(grid, *oracle), rounded(best), grid.budgets()[found.budget].text);
  if (metric.better == Better::lower && best > 0 && found.value.mean >= best) {
    text += fmt::format(": {} is {} times as far off", name_of(grid, found.policy), rounded(found.value.mean / best));
  }
  return text + ".";
}

std::string in_mebibytes(double bytes) { return rounded(bytes / (1U << 20U)) + " MiB"; }

/// What the best policy keeps there.
std::optional<std::string> memory_sentence(const PointGrid& grid, const BestPolicy& found) {
  const PointGrid::Point& point = grid.at(found.policy, found.budget);
  const std::vector<double>& full_bytes = grid.contents().full_bytes;
  double full = 0;
  for (const std::size_t row : point.rows) full += row < full_bytes.size() ? full_bytes[row] : not_available;
  full /= static_cast<double>(point.rows.size());
  const double kept = point.summary[Metric::kept_bytes].mean, mass = point.summary[Metric::retained_mass].mean;
  if (std::isnan(kept) || !(full > 0)) return std::nullopt;
  std::string text = fmt::format("There {} keeps {} of the {} of keys and values that a prompt fills in full",
                                 name_of(grid, found.policy), in_mebibytes(kept), in_mebibytes(full));
  if (!std::isnan(mass)) text += fmt::format(", and with them {} of the attention's mass", rounded(mass));
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

std::string prediction_note(const PointGrid& grid) {
  constexpr std::string_view mark = "partial: ";
  std::vector<std::string> parts;
  for (const RunRow& row : grid.contents().rows) {
    const std::size_t begin = row.prediction_status.find(mark);
    if (begin == std::string::npos) continue;
    const std::size_t from = begin + mark.size();
    const std::string part = row.prediction_status.substr(from, row.prediction_status.find(';', from) - from);
    if (std::find(parts.begin(), parts.end(), part) == parts.end()) parts.push_back(part);
  }
  if (parts.empty()) return {};
  return fmt::format(
      "The predicted damage is partial: it counts {} of the model, those that the trace holds, and nothing of what the "
      "others lose.",
      fmt::join(parts, " or "));
}

std::vector<std::string> run_sentences(const PointGrid& grid) {
  const ShownMetric* metric = grid.default_metric();
  if (metric == nullptr) return {};
  const std::vector<BestPolicy> best = best_policies(grid, *metric);
  if (best.empty()) return {};
  const BestPolicy& usual = at_usual_budget(grid, best);
  std::vector<std::string> sentences = {best_sentence(grid, usual, *metric)};
  const auto add = [&](const std::optional<std::string>& sentence) {
    if (sentence) sentences.push_back(*sentence);
    return sentence.has_value();
  };
  add(budget_sentence(grid, *metric));
  if (!add(oracle_sentence(grid, usual, *metric))) add(memory_sentence(grid, usual));
  return sentences;
}

std::vector<std::string> plan_sentences(const PlanContents& plan, bool partial) {
  const std::vector<PlanGroup> groups = frontier_groups(plan);
  std::string sentence;
  double largest = 0;  // gain over the full cache, of the groups so far
  for (const PlanGroup& group : groups) {
    const PlanColumn& throughput = throughput_column(plan, group);
    const FrontierMeasure measure = frontier_measures(plan, group).front();
    const bool predicted = measure.column->number == &PlanRow::predicted_kl;
    // Part of a damage is small sooner than all of it.
    const bool by_damage = predicted && !partial;
    const auto small = [&](const PlanRow& row) {
      return (by_damage ? row.predicted_kl : row.output_error) <= small_damage;
    };
    const auto value = [&](const PlanRow& row) { return row.*throughput.number; };
    const PlanRow* full = nullptr;
    const PlanRow* best = nullptr;
    for (const std::size_t index : group.rows) {
      const PlanRow& row = plan.rows[index];
      if (std::isnan(value(row))) continue;
      if (row.policy == "full") full = &row;
      if (row.policy != "full" && !is_oracle(row.policy) && small(row) &&
          (best == nullptr || value(row) > value(*best))) {
        best = &row;
      }
    }
    if (full == nullptr || !(value(*full) > 0)) continue;
    const std::string unit =
        std::string(throughput.name) == "goodput" ? "requests per second within the objective" : "tokens per second";
    const bool told_apart = groups.size() > 1 && std::isnan(full->goodput) && !std::isnan(full->rate);
    const std::string where =
        full->gpu + (told_apart ? fmt::format(" under {} requests per second", rounded(full->rate)) : "");
    if (best == nullptr) {
      if (!sentence.empty()) continue;
      sentence = fmt::format("On {}, no policy with {} of {}{} or below was planned; the full cache serves {} {}.",
                             where, by_damage ? "a predicted damage" : "an output error", rounded(small_damage),
                             by_damage ? " nats" : "", rounded(value(*full)), unit);
      continue;
    }
    const double gain = value(*best) / value(*full);
    if (gain <= largest) continue;
    largest = gain;
    const std::string damage = predicted ? fmt::format("a predicted damage{} of {} nats and ",
                                                       partial ? " (partial)" : "", rounded(best->predicted_kl))
                                         : std::string();
    sentence = fmt::format(
        "On {}, {} at a budget of {} serves {} {}, {} times what the full cache does, at {}an output error "
        "of {}.",
        where, best->policy, rounded(best->budget), rounded(value(*best)), unit, rounded(gain), damage,
        rounded(best->output_error));
  }
  if (!sentence.empty()) return {sentence};
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

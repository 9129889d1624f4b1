#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>

#include "analysis/plan_eviction.h"
#include "analysis/report/plan_charts.h"
#include "analysis/report/report_json.h"
#include "sim/serving/service_metrics.h"
#include "traces/error.h"

namespace evictsim::analysis {
namespace {

/// Rows whose course over time is shown: more would make the page heavy and the choice long.
constexpr std::size_t most_courses = 200;
constexpr std::size_t most_text_bytes = 1000;

std::string shown(const std::string& text) { return shown_text(text, most_text_bytes); }

std::string unit_of(std::string_view column) {
  for (const std::string_view latency : {"ttft_", "tpot_", "e2e_"}) {
    if (column.starts_with(latency)) return "s";
  }
  if (column == "simulated_seconds") return "s";
  if (column.ends_with("_bytes_per_second")) return "bytes/s";
  if (column.ends_with("_tokens_per_second")) return "tokens/s";
  if (column == "rate" || column == "requests_per_second" || column.starts_with("goodput")) return "requests/s";
  if (column.ends_with("_tokens") || column == "token_budget") return "tokens";
  if (column.find("bytes") != std::string_view::npos) return "bytes";
  return {};
}

Json columns_json(const PlanContents& plan) {
  Json json = Json::array();
  for (const PlanColumn& column : plan_columns()) {
    Json values = Json::array();
    bool any = false;
    for (const PlanRow& row : plan.rows) {
      if (column.text != nullptr) {
        any = any || !(row.*column.text).empty();
        values.push_back(shown(row.*column.text));
      } else {
        any = any || std::isfinite(row.*column.number);
        values.push_back(number(row.*column.number));
      }
    }
    if (any) json.push_back({{"name", column.name}, {"unit", unit_of(column.name)}, {"values", std::move(values)}});
  }
  return json;
}

/// The limits of the objective, which all rows share; a file may hold another text than this program writes.
Json slo_json(const PlanContents& plan) {
  Json json = Json::array();
  if (plan.rows.empty() || plan.rows.front().slo.empty()) return json;
  sim::ServiceObjective objective;
  try {
    objective = sim::ServiceObjective::parse(plan.rows.front().slo);
  } catch (const Error&) {
    return json;
  }
  for (const sim::LatencyLimit& limit : objective.limits) {
    const std::string metric = limit.kind == sim::LatencyKind::ttft   ? "ttft"
                               : limit.kind == sim::LatencyKind::tpot ? "tpot"
                                                                      : "e2e";
    const std::string statistic = !limit.quantile        ? "mean"
                                  : *limit.quantile == 1 ? "max"
                                                         : fmt::format("p{:g}", *limit.quantile * 100);
    const std::string name = metric + "_" + statistic;
    const auto columns = plan_columns();
    const bool known =
        std::any_of(columns.begin(), columns.end(), [&](const PlanColumn& column) { return name == column.name; });
    json.push_back({{"metric", metric},
                    {"statistic", statistic},
                    {"limit", limit.seconds},
                    {"column", known ? Json(name) : Json()}});
  }
  return json;
}

Json frontiers_json(const PlanContents& plan) {
  Json json = Json::array();
  for (const PlanGroup& group : frontier_groups(plan)) {
    Json oracles = Json::array(), measures = Json::array();
    for (const std::size_t row : group.rows) oracles.push_back(is_oracle(plan.rows[row].policy));
    for (const FrontierMeasure& measure : frontier_measures(plan, group)) {
      Json on = Json::array();
      for (const std::uint8_t mark : measure.on) on.push_back(mark != 0);
      measures.push_back(
          {{"error", measure.column->name}, {"title", measure.title}, {"unit", measure.unit}, {"on", std::move(on)}});
    }
    json.push_back({{"title", shown(group.title)},
                    {"throughput", throughput_column(plan, group).name},
                    {"rows", group.rows},
                    {"oracle", std::move(oracles)},
                    {"measures", std::move(measures)}});
  }
  return json;
}

Json loads_json(const PlanContents& plan) {
  Json json = Json::array();
  for (const PlanGroup& group : load_groups(plan))
    json.push_back({{"title", shown(group.title)}, {"rows", group.rows}});
  return json;
}

Json courses_json(const PlanContents& plan) {
  Json json = Json::array();
  for (std::size_t row = 0; row < plan.backgrounds.size() && json.size() < most_courses; ++row) {
    const PlanSeries& series = plan.backgrounds[row].series;
    if (series.empty()) continue;
    json.push_back({{"row", row},
                    {"seconds", series.seconds},
                    {"kv_tokens", series.kv_tokens},
                    {"kv_capacity", series.kv_capacity_tokens},
                    {"running", series.running},
                    {"waiting", series.waiting}});
  }
  return json;
}

Json budgets_json(const PlanContents& plan) {
  Json json = Json::array();
  for (const PlanGroup& group : budget_groups(plan)) {
    Json lines = Json::array();
    double total = 0;
    for (const models::KvBudgetLine& line : plan.backgrounds[group.rows.front()].kv_budget) {
      lines.push_back({{"name", shown(line.name)}, {"bytes", line.bytes}, {"note", shown(line.how)}});
      total += static_cast<double>(line.bytes);
    }
    json.push_back(
        {{"title", shown(group.title)}, {"rows", group.rows}, {"lines", std::move(lines)}, {"total", total}});
  }
  return json;
}

}  // namespace

Json plan_json(const PlanContents& plan, std::size_t place, MissingParts& missing) {
  Json differ = Json::array();
  for (const PlanSetting& setting : differing_settings(plan)) differ.push_back(setting.column->name);
  Json labels = Json::array();
  for (const std::string& label : row_labels(plan)) labels.push_back(shown(label));
  Json json = {{"name", shown(short_name(plan.path))},
               {"file", shown(plan.path)},
               {"complete", plan.provenance.complete},
               {"rows", plan.rows.size()},
               {"columns", columns_json(plan)},
               {"differ", std::move(differ)},
               {"labels", std::move(labels)},
               {"slo", slo_json(plan)},
               {"frontiers", frontiers_json(plan)},
               {"loads", loads_json(plan)},
               {"over_time", courses_json(plan)},
               {"kv_budgets", budgets_json(plan)},
               {"costs", {{"gpus", "gpus"}, {"tokens", "output_tokens_per_second"}}}};
  const auto miss = [&](const char* part, const char* why) {
    missing.push_back({"plan", part, std::nullopt, place, why});
  };
  if (plan.rows.empty()) {
    miss("", "the plan was interrupted before its first row");
    return json;
  }
  const std::pair<const char*, const char*> parts[] = {{"frontiers", "frontier"},
                                                       {"loads", "load"},
                                                       {"over_time", "over_time"},
                                                       {"kv_budgets", "kv_budget"},
                                                       {"slo", "slo"}};
  for (const auto& [member, part] : parts) {
    if (!json[member].empty()) continue;
    const std::string_view name = part;
    miss(part, name == "frontier" ? "evictsim plan --profile run.h5 compares what policies gain with their error"
               : name == "load"   ? "every deployment was simulated at one rate; evictsim plan --rate 1,2,4 tells more"
               : name == "slo"    ? "no limits were given with --slo"
               : name == "over_time"
                   ? "no row was simulated, or an older evictsim wrote the file"
                   : "the number of blocks was given with --kv-blocks, or an older evictsim wrote the file");
  }
  return json;
}

Json provenance_json(const std::string& file, const char* kind, const RecordedProvenance& provenance) {
  Json inputs = Json::array();
  for (const Provenance::Input& input : provenance.inputs) {
    inputs.push_back({{"path", shown(input.path)}, {"checksum", shown(input.checksum)}, {"what", shown(input.model)}});
  }
  return {{"file", shown(file)},
          {"kind", kind},
          {"evictsim_version", shown(provenance.evictsim_version)},
          {"command_line", shown_text(provenance.command_line, 100 * most_text_bytes)},
          {"seed", provenance.seed},
          {"created", shown(provenance.created)},
          {"complete", provenance.complete},
          {"inputs", std::move(inputs)}};
}

}  // namespace evictsim::analysis

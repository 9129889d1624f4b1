#include "analysis/plan_row.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <string_view>

#include "analysis/csv.h"

namespace evictsim::analysis {
namespace {

constexpr PlanColumn text(const char* name, std::string PlanRow::*member) { return {name, member, nullptr}; }
constexpr PlanColumn number(const char* name, double PlanRow::*member) { return {name, nullptr, member}; }

constexpr std::array columns = {
    text("model", &PlanRow::model),
    text("gpu", &PlanRow::gpu),
    text("engine", &PlanRow::engine),
    number("tensor_parallel", &PlanRow::tensor_parallel),
    number("pipeline_parallel", &PlanRow::pipeline_parallel),
    number("replicas", &PlanRow::replicas),
    text("policy", &PlanRow::policy),
    number("budget", &PlanRow::budget),
    text("workload", &PlanRow::workload),
    number("rate", &PlanRow::rate),
    number("requests", &PlanRow::requests),
    number("completed", &PlanRow::completed),
    number("ttft_mean", &PlanRow::ttft_mean),
    number("ttft_p50", &PlanRow::ttft_p50),
    number("ttft_p99", &PlanRow::ttft_p99),
    number("tpot_mean", &PlanRow::tpot_mean),
    number("tpot_p50", &PlanRow::tpot_p50),
    number("tpot_p99", &PlanRow::tpot_p99),
    number("e2e_mean", &PlanRow::e2e_mean),
    number("e2e_p99", &PlanRow::e2e_p99),
    number("output_tokens_per_second", &PlanRow::output_tokens_per_second),
    number("total_tokens_per_second", &PlanRow::total_tokens_per_second),
    number("kv_capacity_tokens", &PlanRow::kv_capacity_tokens),
    number("kv_peak_tokens", &PlanRow::kv_peak_tokens),
    number("batch_mean", &PlanRow::batch_mean),
    number("preemptions", &PlanRow::preemptions),
    number("prefix_hit_rate", &PlanRow::prefix_hit_rate),
    number("recall_bytes_per_second", &PlanRow::recall_bytes_per_second),
    number("host_bytes_peak", &PlanRow::host_bytes_peak),
    number("output_error", &PlanRow::output_error),
    number("slo_met", &PlanRow::slo_met),
    // More may follow only here.
    text("status", &PlanRow::status),
    number("gpus", &PlanRow::gpus),
    number("goodput", &PlanRow::goodput),
    number("goodput_low", &PlanRow::goodput_low),
    number("goodput_high", &PlanRow::goodput_high),
    number("refused", &PlanRow::refused),
    number("requests_per_second", &PlanRow::requests_per_second),
    number("utilisation", &PlanRow::utilisation),
    number("running_mean", &PlanRow::running_mean),
    number("waiting_mean", &PlanRow::waiting_mean),
    number("ttft_p90", &PlanRow::ttft_p90),
    number("tpot_p90", &PlanRow::tpot_p90),
    number("e2e_p50", &PlanRow::e2e_p50),
    number("e2e_p90", &PlanRow::e2e_p90),
    number("simulated_seconds", &PlanRow::simulated_seconds),
    number("prefill_replicas", &PlanRow::prefill_replicas),
    number("decode_replicas", &PlanRow::decode_replicas),
    text("weights", &PlanRow::weights),
    text("kv_type", &PlanRow::kv_type),
    number("memory_share", &PlanRow::memory_share),
    number("token_budget", &PlanRow::token_budget),
    number("max_sequences", &PlanRow::max_sequences),
    text("batching", &PlanRow::batching),
    text("preemption", &PlanRow::preemption),
    text("routing", &PlanRow::routing),
    number("prefix_cache", &PlanRow::prefix_cache),
    number("chunked_prefill", &PlanRow::chunked_prefill),
    text("slo", &PlanRow::slo),
    number("seed", &PlanRow::seed),
    number("frontier", &PlanRow::frontier),
    number("host_memory", &PlanRow::host_memory),
    number("disk_memory", &PlanRow::disk_memory),
    number("remote_memory", &PlanRow::remote_memory),
    text("tier_policy", &PlanRow::tier_policy),
    text("tier_write", &PlanRow::tier_write),
    text("load_or_recompute", &PlanRow::load_or_recompute),
    number("layer_overlap", &PlanRow::layer_overlap),
    number("host_hit_rate", &PlanRow::host_hit_rate),
    number("disk_hit_rate", &PlanRow::disk_hit_rate),
    number("remote_hit_rate", &PlanRow::remote_hit_rate),
    number("disk_bytes_peak", &PlanRow::disk_bytes_peak),
    number("remote_bytes_peak", &PlanRow::remote_bytes_peak),
    number("host_load_utilisation", &PlanRow::host_load_utilisation),
    number("host_store_utilisation", &PlanRow::host_store_utilisation),
    number("disk_load_utilisation", &PlanRow::disk_load_utilisation),
    number("disk_store_utilisation", &PlanRow::disk_store_utilisation),
    number("remote_load_utilisation", &PlanRow::remote_load_utilisation),
    number("remote_store_utilisation", &PlanRow::remote_store_utilisation),
    number("predicted_kl", &PlanRow::predicted_kl),
    number("attention_data_parallel", &PlanRow::attention_data_parallel),
    number("expert_parallel", &PlanRow::expert_parallel),
};

/// Settings, in the order of the table, with their titles.
constexpr std::array settings = {
    std::pair{"model", "model"},
    std::pair{"gpu", "GPU"},
    std::pair{"engine", "engine"},
    std::pair{"tensor_parallel", "tp"},
    std::pair{"pipeline_parallel", "pp"},
    std::pair{"attention_data_parallel", "dp"},
    std::pair{"expert_parallel", "ep"},
    std::pair{"replicas", "replicas"},
    std::pair{"prefill_replicas", "prefill"},
    std::pair{"decode_replicas", "decode"},
    std::pair{"weights", "weights"},
    std::pair{"kv_type", "kv"},
    std::pair{"memory_share", "memory"},
    std::pair{"token_budget", "tokens"},
    std::pair{"max_sequences", "sequences"},
    std::pair{"batching", "batching"},
    std::pair{"preemption", "preemption"},
    std::pair{"routing", "routing"},
    std::pair{"prefix_cache", "prefix"},
    std::pair{"chunked_prefill", "chunked"},
    std::pair{"host_memory", "host GiB"},
    std::pair{"disk_memory", "disk GiB"},
    std::pair{"remote_memory", "remote GiB"},
    std::pair{"tier_policy", "tier"},
    std::pair{"tier_write", "write"},
    std::pair{"load_or_recompute", "load"},
    std::pair{"workload", "workload"},
    std::pair{"seed", "seed"},
    std::pair{"policy", "policy"},
    std::pair{"budget", "budget"},
};

const PlanColumn& column_of(std::string_view name) {
  return *std::find_if(columns.begin(), columns.end(), [&](const PlanColumn& column) { return column.name == name; });
}

/// Four significant digits, whole numbers whole.
std::string rounded(double value) {
  if (std::isnan(value)) return "-";
  return std::abs(value) >= 1000 ? fmt::format("{:.0f}", value) : fmt::format("{:.4g}", value);
}

/// Shown as yes or no.
bool is_mark(const PlanColumn& column) {
  return column.number == &PlanRow::slo_met || column.number == &PlanRow::frontier;
}

constexpr std::size_t widest_text = 44;

std::string shortened(const std::string& value) {
  return value.size() <= widest_text ? value : value.substr(0, widest_text - 3) + "...";
}

}  // namespace

std::span<const PlanColumn> plan_columns() { return columns; }

std::vector<std::string> plan_column_names() {
  std::vector<std::string> names;
  for (const PlanColumn& column : columns) names.emplace_back(column.name);
  return names;
}

std::span<const PlanSetting> plan_settings() {
  static const std::vector<PlanSetting> list = [] {
    std::vector<PlanSetting> filled;
    for (const auto& [name, title] : settings) filled.push_back({&column_of(name), title});
    return filled;
  }();
  return list;
}

std::string cell(const PlanRow& row, const PlanColumn& column) {
  return column.text != nullptr ? row.*column.text : decimal(row.*column.number);
}

std::vector<std::string> cells(const PlanRow& row) {
  std::vector<std::string> texts;
  for (const PlanColumn& column : columns) texts.push_back(cell(row, column));
  return texts;
}

PlanTable::PlanTable(const std::vector<PlanRow>& rows, bool with_goodput, bool with_slo) {
  for (const PlanSetting& setting : plan_settings()) {
    std::set<std::string> values;
    std::size_t width = std::string_view(setting.title).size();
    for (const PlanRow& row : rows) {
      const std::string value = cell(row, *setting.column);
      values.insert(value);
      width = std::max(width, shortened(value).size());
    }
    if (values.size() > 1) add(setting.column->name, setting.title, width);
  }
  constexpr std::size_t figure = 9;
  add("gpus", "GPUs", 4);
  add("rate", "rate", 8);
  if (with_goodput) {
    add("goodput", "goodput", 8);
    add("goodput_low", "low", 8);
    add("goodput_high", "high", 8);
  }
  constexpr double milliseconds = 1000;
  add("ttft_mean", "TTFT s", figure);
  add("ttft_p99", "p99", figure);
  add("tpot_mean", "TPOT ms", figure, milliseconds);
  add("tpot_p99", "p99", figure, milliseconds);
  add("e2e_mean", "E2E s", figure);
  add("output_tokens_per_second", "tokens/s", figure);
  add("batch_mean", "batch", 7);
  add("kv_peak_tokens", "KV peak", figure);
  add("preemptions", "preempted", figure);
  const auto has = [&](double PlanRow::*member) {
    return std::any_of(rows.begin(), rows.end(), [&](const PlanRow& row) { return !std::isnan(row.*member); });
  };
  if (has(&PlanRow::host_memory) || has(&PlanRow::disk_memory) || has(&PlanRow::remote_memory)) {
    add("prefix_hit_rate", "HBM hits", 8);
  }
  if (has(&PlanRow::host_memory)) add("host_hit_rate", "host hits", figure);
  if (has(&PlanRow::disk_memory)) add("disk_hit_rate", "disk hits", figure);
  if (has(&PlanRow::remote_memory)) add("remote_hit_rate", "remote", figure);
  if (with_slo) add("slo_met", "SLO", 3);
  const bool evicts = std::any_of(rows.begin(), rows.end(), [](const PlanRow& row) { return row.policy != "full"; });
  if (evicts) {
    add("output_error", "error", 8);
    const bool predicted = std::any_of(
        rows.begin(), rows.end(), [](const PlanRow& row) { return row.policy != "full" && row.predicted_kl >= 0; });
    if (predicted) add("predicted_kl", "KL", 8);
    add("frontier", "frontier", 8);
  }
}

void PlanTable::add(const char* name, const char* title, std::size_t width, double factor) {
  columns_.push_back({title, &column_of(name), std::max(width, std::string_view(title).size()), factor});
}

std::string PlanTable::header() const {
  std::string text;
  for (const Column& column : columns_) {
    if (!text.empty()) text += "  ";
    text += column.source->text != nullptr ? fmt::format("{:<{}}", column.title, column.width)
                                           : fmt::format("{:>{}}", column.title, column.width);
  }
  return text + "  status\n";
}

std::string PlanTable::line(const PlanRow& row) const {
  std::string text;
  for (const Column& column : columns_) {
    if (!text.empty()) text += "  ";
    if (column.source->text != nullptr) {
      text += fmt::format("{:<{}}", shortened(row.*column.source->text), column.width);
    } else if (is_mark(*column.source) && !std::isnan(row.*column.source->number)) {
      text += fmt::format("{:>{}}", row.*column.source->number == 1 ? "yes" : "no", column.width);
    } else {
      text += fmt::format("{:>{}}", rounded(column.factor * row.*column.source->number), column.width);
    }
  }
  return text + "  " + row.status + "\n";
}

}  // namespace evictsim::analysis

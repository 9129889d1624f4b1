#pragma once
/// \file
/// One row of a plan: one deployment under one workload. Columns and units: docs/plan.md.

#include <limits>
#include <span>
#include <string>
#include <vector>

namespace evictsim::analysis {

/// Numbers are NaN where there are none.
struct PlanRow {
  static constexpr double none = std::numeric_limits<double>::quiet_NaN();

  std::string model, gpu, engine;
  double tensor_parallel = none, pipeline_parallel = none, replicas = none;
  std::string policy = "full";
  double budget = 1;
  std::string workload;
  double rate = none, requests = none, completed = none;
  double ttft_mean = none, ttft_p50 = none, ttft_p99 = none;
  double tpot_mean = none, tpot_p50 = none, tpot_p99 = none;
  double e2e_mean = none, e2e_p99 = none;
  double output_tokens_per_second = none, total_tokens_per_second = none;
  double kv_capacity_tokens = none, kv_peak_tokens = none, batch_mean = none;
  double preemptions = none, prefix_hit_rate = none;
  double recall_bytes_per_second = none, host_bytes_peak = none, output_error = none;
  double slo_met = none;
  std::string status = "ok";  ///< or what is wrong with the row
  double gpus = none;
  double goodput = none, goodput_low = none, goodput_high = none;
  double refused = none, requests_per_second = none, utilisation = none, running_mean = none, waiting_mean = none;
  double ttft_p90 = none, tpot_p90 = none, e2e_p50 = none, e2e_p90 = none, simulated_seconds = none;
  double prefill_replicas = none, decode_replicas = none;
  std::string weights, kv_type;
  double memory_share = none, token_budget = none, max_sequences = none;
  std::string batching, preemption, routing;
  double prefix_cache = none, chunked_prefill = none;
  std::string slo;
  double seed = none;
  /// Of tiers below the replicas: per GPU, in GiB; and what they did.
  double host_memory = none, disk_memory = none, remote_memory = none;
  std::string tier_policy, tier_write, load_or_recompute;
  double layer_overlap = none;
  double host_hit_rate = none, disk_hit_rate = none, remote_hit_rate = none;
  double disk_bytes_peak = none, remote_bytes_peak = none;
  double host_load_utilisation = none, host_store_utilisation = none;
  double disk_load_utilisation = none, disk_store_utilisation = none;
  double remote_load_utilisation = none, remote_store_utilisation = none;
  double predicted_kl = none;
  double attention_data_parallel = none, expert_parallel = none;
  double frontier = none;  ///< of quality and throughput among policies: 1 on it, 0 not

  [[nodiscard]] bool ok() const { return status == "ok"; }
};

/// A column is a text or a number.
struct PlanColumn {
  const char* name;
  std::string PlanRow::*text = nullptr;
  double PlanRow::*number = nullptr;
};

/// In the order of plan.csv.
std::span<const PlanColumn> plan_columns();
std::vector<std::string> plan_column_names();
/// One of the columns that say what was simulated, not how it went.
struct PlanSetting {
  const PlanColumn* column;
  const char* title;  ///< short, for tables
};
/// In the order of tables. The rate is none of them: it may be what was searched for.
std::span<const PlanSetting> plan_settings();
/// One cell of plan.csv, unquoted.
std::string cell(const PlanRow& row, const PlanColumn& column);
/// The row's cells in that order, unquoted; empty where not available.
std::vector<std::string> cells(const PlanRow& row);

/// Columns of the table on the terminal, and lines of it: texts to the left, numbers to the right. Widths are fixed
/// beforehand, so that lines can be shown as they come.
class PlanTable {
 public:
  /// `rows` hold the settings of all rows to come; the table has a column for each setting that differs among them.
  /// `with_goodput`, `with_slo`: columns for them.
  PlanTable(const std::vector<PlanRow>& rows, bool with_goodput, bool with_slo);
  [[nodiscard]] std::string header() const;
  [[nodiscard]] std::string line(const PlanRow& row) const;

 private:
  struct Column {
    std::string title;
    const PlanColumn* source;
    std::size_t width;
    double factor;  ///< of the number shown
  };
  void add(const char* name, const char* title, std::size_t width, double factor = 1);
  std::vector<Column> columns_;
};

}  // namespace evictsim::analysis

#pragma once
/// \file
/// One row of results: one sequence of one trace under one policy at one budget. Columns: docs/run-file.md.

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "analysis/statistics.h"

namespace evictsim::analysis {

/// The numbers of a row, in the order of their columns.
enum class Metric : std::size_t {
  kept_entries,
  kept_bytes,
  kept_fraction,
  retained_mass,
  output_error,
  output_error_p95,
  layer_error,
  squared_error,
  predicted_kl,
  predicted_kl_low,
  predicted_kl_high,
  dilution_full,
  dilution,
  entropy_full,
  entropy,
  oracle_overlap,
  recall_bytes_per_step,
  // What follows stands behind the columns of text and counts.
  kept_bytes_paged,
  resident_entries,
  resident_bytes,
  evictions_per_step,
  span_retention,
  output_error_median,
  output_error_p99,
  retained_mass_low,
  retained_mass_high,
  output_error_low,
  output_error_high,
  layer_error_low,
  layer_error_high,
  squared_error_low,
  squared_error_high,
  regret,
  regret_low,
  regret_high,
  oracle_gain,
  normalised_regret,
  normalised_regret_low,
  normalised_regret_high,
  premature_evictions,
  premature_evictions_low,
  premature_evictions_high,
  cuts,
  scored_entries_per_step,
  dilution_full_low,
  dilution_full_high,
  dilution_low,
  dilution_high,
  entropy_full_low,
  entropy_full_high,
  entropy_low,
  entropy_high,
  resident_entries_low,
  resident_entries_high,
  resident_bytes_low,
  resident_bytes_high,
  evictions_per_step_low,
  evictions_per_step_high,
  host_bytes,
  disk_bytes,
  recall_bytes_host_per_step,
  recall_bytes_disk_per_step,
  written_bytes_per_step,
  scanned_bytes_per_step,
  recall_hit_share,
  optimality_gap,
  lost_sink_mass,
  damage_index,
  sink_mass_full,
  sink_mass_full_low,
  sink_mass_full_high,
  sink_mass,
  sink_mass_low,
  sink_mass_high,
  useful_mass_full,
  useful_mass_full_low,
  useful_mass_full_high,
  useful_mass,
  useful_mass_low,
  useful_mass_high,
  distractor_mass_full,
  distractor_mass_full_low,
  distractor_mass_full_high,
  distractor_mass,
  distractor_mass_low,
  distractor_mass_high,
  decoded_mass_full,
  decoded_mass_full_low,
  decoded_mass_full_high,
  decoded_mass,
  decoded_mass_low,
  decoded_mass_high,
};
inline constexpr std::size_t metric_count = static_cast<std::size_t>(Metric::decoded_mass_high) + 1;
/// The column's name.
const char* to_string(Metric metric) noexcept;

/// A value that is not available.
inline constexpr double not_available = std::numeric_limits<double>::quiet_NaN();

/// Below this share of attention the oracle's gain over a random cut is rounding, and regret is not divided by it.
inline constexpr double smallest_oracle_gain = 1e-6;

struct RunRow {
  std::string trace;     ///< path as given
  std::string sequence;  ///< its name in the file
  std::string policy, budget;
  std::string status = "ok";  ///< or "failed: why", with every metric not available
  std::int64_t prompt_length = 0;
  std::int64_t decode_rows = 0;  ///< rows evaluated
  std::int64_t layers = 0;       ///< layers evaluated
  std::array<double, metric_count> metrics = unknown_metrics();
  std::string damage_index_kind;  ///< what Metric::damage_index is: "summed_error" or "squared_error"; empty without it
  std::string prediction_status;  ///< of Metric::predicted_kl, docs/damage.md; empty in rows that failed
  std::vector<int> layer_indices;            ///< evaluated layers, indices in the model, ascending
  std::vector<double> layer_squared_errors;  ///< m_l of each, docs/damage.md; empty where a layer lacks w_o

  [[nodiscard]] bool ok() const { return status == "ok"; }
  [[nodiscard]] double operator[](Metric metric) const { return metrics[static_cast<std::size_t>(metric)]; }
  [[nodiscard]] double& operator[](Metric metric) { return metrics[static_cast<std::size_t>(metric)]; }

 private:
  static constexpr std::array<double, metric_count> unknown_metrics() {
    std::array<double, metric_count> values{};
    values.fill(not_available);
    return values;
  }
};

/// `estimate` within the range the metric can have: Student's interval is symmetric and knows of none, and rounding can
/// carry a share past 1.
Estimate within_range(Metric metric, Estimate estimate);

/// Names of run.csv's columns.
std::vector<std::string> column_names();
/// The row's cells in that order, unquoted; empty where not available.
std::vector<std::string> cells(const RunRow& row);

}  // namespace evictsim::analysis

#include "analysis/run_row.h"

#include <algorithm>

#include "analysis/csv.h"

namespace evictsim::analysis {
namespace {

constexpr std::size_t leading_metrics = static_cast<std::size_t>(Metric::recall_bytes_per_step) + 1;

// In the order of Metric.
constexpr std::array<const char*, metric_count> metric_names = {"kept_entries",
                                                                "kept_bytes",
                                                                "kept_fraction",
                                                                "retained_mass",
                                                                "output_error",
                                                                "output_error_p95",
                                                                "layer_error",
                                                                "squared_error",
                                                                "predicted_kl",
                                                                "predicted_kl_low",
                                                                "predicted_kl_high",
                                                                "dilution_full",
                                                                "dilution",
                                                                "entropy_full",
                                                                "entropy",
                                                                "oracle_overlap",
                                                                "recall_bytes_per_step",
                                                                "kept_bytes_paged",
                                                                "resident_entries",
                                                                "resident_bytes",
                                                                "evictions_per_step",
                                                                "span_retention",
                                                                "output_error_median",
                                                                "output_error_p99",
                                                                "retained_mass_low",
                                                                "retained_mass_high",
                                                                "output_error_low",
                                                                "output_error_high",
                                                                "layer_error_low",
                                                                "layer_error_high",
                                                                "squared_error_low",
                                                                "squared_error_high",
                                                                "regret",
                                                                "regret_low",
                                                                "regret_high",
                                                                "oracle_gain",
                                                                "normalised_regret",
                                                                "normalised_regret_low",
                                                                "normalised_regret_high",
                                                                "premature_evictions",
                                                                "premature_evictions_low",
                                                                "premature_evictions_high",
                                                                "cuts",
                                                                "scored_entries_per_step",
                                                                "dilution_full_low",
                                                                "dilution_full_high",
                                                                "dilution_low",
                                                                "dilution_high",
                                                                "entropy_full_low",
                                                                "entropy_full_high",
                                                                "entropy_low",
                                                                "entropy_high",
                                                                "resident_entries_low",
                                                                "resident_entries_high",
                                                                "resident_bytes_low",
                                                                "resident_bytes_high",
                                                                "evictions_per_step_low",
                                                                "evictions_per_step_high",
                                                                "host_bytes",
                                                                "disk_bytes",
                                                                "recall_bytes_host_per_step",
                                                                "recall_bytes_disk_per_step",
                                                                "written_bytes_per_step",
                                                                "scanned_bytes_per_step",
                                                                "recall_hit_share",
                                                                "optimality_gap",
                                                                "lost_sink_mass",
                                                                "damage_index",
                                                                "sink_mass_full",
                                                                "sink_mass_full_low",
                                                                "sink_mass_full_high",
                                                                "sink_mass",
                                                                "sink_mass_low",
                                                                "sink_mass_high",
                                                                "useful_mass_full",
                                                                "useful_mass_full_low",
                                                                "useful_mass_full_high",
                                                                "useful_mass",
                                                                "useful_mass_low",
                                                                "useful_mass_high",
                                                                "distractor_mass_full",
                                                                "distractor_mass_full_low",
                                                                "distractor_mass_full_high",
                                                                "distractor_mass",
                                                                "distractor_mass_low",
                                                                "distractor_mass_high",
                                                                "decoded_mass_full",
                                                                "decoded_mass_full_low",
                                                                "decoded_mass_full_high",
                                                                "decoded_mass",
                                                                "decoded_mass_low",
                                                                "decoded_mass_high"};

}  // namespace

const char* to_string(Metric metric) noexcept { return metric_names[static_cast<std::size_t>(metric)]; }

Estimate within_range(Metric metric, Estimate estimate) {
  double most = std::numeric_limits<double>::infinity();
  switch (metric) {
    case Metric::kept_fraction:
    case Metric::retained_mass:
    case Metric::dilution_full:
    case Metric::dilution:
    case Metric::oracle_overlap:
    case Metric::span_retention:
    case Metric::regret:
    case Metric::oracle_gain:
    case Metric::premature_evictions:
    case Metric::lost_sink_mass:
      most = 1;
      break;
    default:
      break;
  }
  // Comparisons with NaN are false, so that what is not available stays so.
  for (double* value : {&estimate.mean, &estimate.low, &estimate.high}) *value = std::clamp(*value, 0.0, most);
  return estimate;
}

std::vector<std::string> column_names() {
  std::vector<std::string> names = {"trace", "sequence", "policy", "budget"};
  names.insert(names.end(), metric_names.begin(), metric_names.begin() + leading_metrics);
  names.insert(names.end(), {"status", "prompt_length", "decode_rows", "layers"});
  names.insert(names.end(), metric_names.begin() + leading_metrics, metric_names.end());
  names.insert(names.end(), {"damage_index_kind", "prediction_status"});
  return names;
}

std::vector<std::string> cells(const RunRow& row) {
  std::vector<std::string> texts = {row.trace, row.sequence, row.policy, row.budget};
  for (std::size_t index = 0; index < leading_metrics; ++index) texts.push_back(decimal(row.metrics[index]));
  texts.push_back(row.status);
  for (const std::int64_t count : {row.prompt_length, row.decode_rows, row.layers})
    texts.push_back(std::to_string(count));
  for (std::size_t index = leading_metrics; index < metric_count; ++index) texts.push_back(decimal(row.metrics[index]));
  texts.insert(texts.end(), {row.damage_index_kind, row.prediction_status});
  return texts;
}

}  // namespace evictsim::analysis

#include "analysis/sequence_sums.h"

#include <algorithm>
#include <cmath>
#include <optional>

namespace evictsim::analysis {
namespace {

struct RowMetricTraits {
  const char* name = nullptr;
  bool by_head = false;  ///< has a value for every query head
  OverLayers over_layers = OverLayers::mean;
  Metric mean = {};
  std::optional<Metric> low = {}, high = {};
};
constexpr std::array<RowMetricTraits, row_metric_count> row_metrics = {{
    {"retained_mass", true, OverLayers::mean, Metric::retained_mass, Metric::retained_mass_low,
     Metric::retained_mass_high},
    {"output_error", true, OverLayers::mean, Metric::output_error, Metric::output_error_low, Metric::output_error_high},
    {"dilution", true, OverLayers::mean, Metric::dilution, Metric::dilution_low, Metric::dilution_high},
    {"entropy", true, OverLayers::mean, Metric::entropy, Metric::entropy_low, Metric::entropy_high},
    {"regret", true, OverLayers::mean, Metric::regret, Metric::regret_low, Metric::regret_high},
    {"oracle_gain", true, OverLayers::mean, Metric::oracle_gain},
    {"premature_evictions", true, OverLayers::mean, Metric::premature_evictions, Metric::premature_evictions_low,
     Metric::premature_evictions_high},
    {"sink_mass", true, OverLayers::mean, Metric::sink_mass, Metric::sink_mass_low, Metric::sink_mass_high},
    {"useful_mass", true, OverLayers::mean, Metric::useful_mass, Metric::useful_mass_low, Metric::useful_mass_high},
    {"distractor_mass", true, OverLayers::mean, Metric::distractor_mass, Metric::distractor_mass_low,
     Metric::distractor_mass_high},
    {"decoded_mass", true, OverLayers::mean, Metric::decoded_mass, Metric::decoded_mass_low, Metric::decoded_mass_high},
    {"layer_error", false, OverLayers::mean, Metric::layer_error, Metric::layer_error_low, Metric::layer_error_high},
    {"squared_error", false, OverLayers::sum, Metric::squared_error, Metric::squared_error_low,
     Metric::squared_error_high},
    {"resident_entries", false, OverLayers::mean, Metric::resident_entries, Metric::resident_entries_low,
     Metric::resident_entries_high},
    {"resident_bytes", false, OverLayers::sum, Metric::resident_bytes, Metric::resident_bytes_low,
     Metric::resident_bytes_high},
    {"evictions_per_step", false, OverLayers::mean, Metric::evictions_per_step, Metric::evictions_per_step_low,
     Metric::evictions_per_step_high},
    {"lost_sink_mass", false, OverLayers::mean, Metric::lost_sink_mass},
}};

constexpr std::array<RowMetricTraits, full_metric_count> full_metrics = {{
    {"dilution_full", true, OverLayers::mean, Metric::dilution_full, Metric::dilution_full_low,
     Metric::dilution_full_high},
    {"entropy_full", true, OverLayers::mean, Metric::entropy_full, Metric::entropy_full_low, Metric::entropy_full_high},
    {"sink_mass_full", true, OverLayers::mean, Metric::sink_mass_full, Metric::sink_mass_full_low,
     Metric::sink_mass_full_high},
    {"useful_mass_full", true, OverLayers::mean, Metric::useful_mass_full, Metric::useful_mass_full_low,
     Metric::useful_mass_full_high},
    {"distractor_mass_full", true, OverLayers::mean, Metric::distractor_mass_full, Metric::distractor_mass_full_low,
     Metric::distractor_mass_full_high},
    {"decoded_mass_full", true, OverLayers::mean, Metric::decoded_mass_full, Metric::decoded_mass_full_low,
     Metric::decoded_mass_full_high},
}};

bool behind_projection(std::size_t metric) { return metric == layer_error || metric == squared_error; }

void put(const Estimate& unbounded, const RowMetricTraits& columns, RunRow& row) {
  const Estimate value = within_range(columns.mean, unbounded);
  row[columns.mean] = value.mean;
  if (columns.low) row[*columns.low] = value.low;
  if (columns.high) row[*columns.high] = value.high;
}

}  // namespace

SequenceSums::SequenceSums(const sim::SequenceStart& sequence_start, std::size_t points,
                           std::vector<std::int32_t> evidence_rows, const DetailAxes& axes)
    : start(sequence_start),
      steps(start.decode_rows),
      sampled(sampled_steps(start.decode_rows.size())),
      evidence(std::move(evidence_rows)),
      detail_heads(!axes.any() ? 0
                   : axes.head ? static_cast<std::size_t>(start.query_heads)
                               : 1),
      detail_steps(axes.step ? steps.count() : 1),
      full(start.layers.size()),
      point_states(points),
      summed_errors(start, points) {
  if (axes.entry) entries.emplace(start, points, axes);
  for (FullSums& sums : full) sums.fill(RowSums(steps.batches(), detail_heads, detail_steps));
  for (PointState& state : point_states) {
    state.layers.resize(start.layers.size());
    if (axes.any_step()) state.tiers = TierDetail(start.layers.size(), steps.count(), axes.step && axes.layer);
    for (LayerSums& sums : state.layers) {
      for (std::size_t metric = 0; metric < row_metric_count; ++metric) {
        const std::size_t heads = row_metrics[metric].by_head ? detail_heads : std::min<std::size_t>(detail_heads, 1);
        sums.by_row[metric] = RowSums(steps.batches(), heads, detail_steps);
        if (axes.steps) sums.by_step[metric] = RowSums(0, 1, steps.count());
      }
    }
  }
}

void SequenceSums::fill_cut(std::size_t point, RunRow& row) const {
  const std::vector<LayerSums>& layers = point_states[point].layers;
  const std::int64_t entry_bytes = 2 * std::int64_t{start.head_dim} * start.stored_bytes;
  double kept_per_head = 0;
  double overlap = 0;
  double scored_per_step = 0;
  std::int64_t cuts = 0;
  std::int64_t kept = 0;
  std::int64_t kept_paged = 0;
  std::int64_t evidence_kept = 0;
  std::int64_t evidence_places = 0;
  for (const LayerSums& layer : layers) {
    if (!layer.has_cut) return;
    kept_per_head += static_cast<double>(layer.kept) / static_cast<double>(layer.cache_heads);
    overlap += layer.oracle_overlap;
    cuts += layer.cuts;
    const std::int32_t decoded = layer.last_row + 1 - start.prompt_length;
    scored_per_step += static_cast<double>(layer.scored_entries) / std::max(decoded, 1);
    kept += layer.kept;
    kept_paged += layer.kept_paged;
    evidence_kept += layer.evidence_kept;
    evidence_places += layer.cache_heads * static_cast<std::int64_t>(evidence.size());
  }
  const auto layer_count = static_cast<double>(layers.size());
  row[Metric::kept_entries] = kept_per_head / layer_count;
  row[Metric::kept_bytes] = static_cast<double>(kept * entry_bytes);
  row[Metric::kept_bytes_paged] = static_cast<double>(kept_paged * entry_bytes);
  row[Metric::kept_fraction] = row[Metric::kept_entries] / static_cast<double>(start.prompt_length);
  row[Metric::oracle_overlap] = overlap / layer_count;
  row[Metric::cuts] = static_cast<double>(cuts) / layer_count;
  row[Metric::scored_entries_per_step] = scored_per_step;
  if (evidence_places > 0) {
    row[Metric::span_retention] = static_cast<double>(evidence_kept) / static_cast<double>(evidence_places);
  }
}

void SequenceSums::fill_decode(std::size_t point, RunRow& row) const {
  for (std::size_t metric = 0; metric < row_metric_count; ++metric) {
    if (behind_projection(metric) && lacks_projection(point)) continue;
    const RowMetricTraits& traits = row_metrics[metric];
    put(combine_layers(layers_of(point, metric), traits.over_layers), traits, row);
  }
  put(ratio_of_means(layers_of(point, regret), layers_of(point, oracle_gain), smallest_oracle_gain),
      {"normalised_regret", true, OverLayers::mean, Metric::normalised_regret, Metric::normalised_regret_low,
       Metric::normalised_regret_high},
      row);
  for (std::size_t metric = 0; metric < full_metric_count; ++metric) {
    put(combine_layers(full_layers(metric), OverLayers::mean), full_metrics[metric], row);
  }

  const PointState& state = point_states[point];
  row[Metric::output_error_median] = state.output_errors.at(0.5);
  row[Metric::output_error_p95] = state.output_errors.at(0.95);
  row[Metric::output_error_p99] = state.output_errors.at(0.99);
  std::vector<const TierSums*> tiers;
  for (const LayerSums& layer : state.layers) tiers.push_back(&layer.tiers);
  TierSums::fill(tiers, state.output_errors.count() > 0, row);
}

void SequenceSums::fill_damage(std::size_t point, RunRow& row) const {
  row.layer_indices = start.layers;
  if (lacks_projection(point) || start.decode_rows.empty()) return;
  for (const RowSums* layer : layers_of(point, squared_error)) row.layer_squared_errors.push_back(layer->mean());
  row[Metric::damage_index] = summed_errors.mean(point);
  row.damage_index_kind = "summed_error";
  if (!std::isnan(row[Metric::damage_index])) return;
  row[Metric::damage_index] = row[Metric::squared_error];
  row.damage_index_kind = "squared_error";
}

RunRow SequenceSums::row_of(std::size_t point, const sim::ReplayPlan& plan) const {
  RunRow row;
  row.trace = start.trace_path;
  row.sequence = start.name;
  row.policy = plan.policies[plan.points[point].policy].name;
  row.budget = plan.points[point].budget.text();
  row.prompt_length = start.prompt_length;
  row.decode_rows = static_cast<std::int64_t>(start.decode_rows.size());
  row.layers = static_cast<std::int64_t>(start.layers.size());
  for (const auto& [policy, why] : failed) {
    if (policy != plan.points[point].policy) continue;
    row.status = "failed: " + why;
    break;
  }
  if (!row.ok()) return row;
  fill_cut(point, row);
  fill_decode(point, row);
  fill_damage(point, row);
  return row;
}

std::vector<DetailArray> SequenceSums::detail_of(std::size_t point, const DetailAxes& axes) const {
  std::vector<DetailArray> arrays;
  for (std::size_t metric = 0; metric < row_metric_count; ++metric) {
    const RowMetricTraits& traits = row_metrics[metric];
    DetailAxes own = axes;
    if (!traits.by_head) own.head = false;
    if (!own.any() || (behind_projection(metric) && lacks_projection(point))) continue;
    arrays.push_back(combine_detail(traits.name, layers_of(point, metric), traits.over_layers, own,
                                    own.head ? detail_heads : 1, detail_steps));
  }
  if (!axes.any_step()) return arrays;
  const std::size_t apart = arrays.size();
  for (std::size_t metric = 0; axes.steps && metric < row_metric_count; ++metric) {
    if (behind_projection(metric) && lacks_projection(point)) continue;
    std::vector<const RowSums*> layers;
    for (const LayerSums& layer : point_states[point].layers) layers.push_back(&layer.by_step[metric]);
    DetailAxes own;
    own.step = true;
    arrays.push_back(
        combine_detail(row_metrics[metric].name, layers, row_metrics[metric].over_layers, own, 1, steps.count()));
  }
  for (DetailArray& array : point_states[point].tiers.arrays()) arrays.push_back(std::move(array));
  if (!axes.steps) return arrays;
  for (std::size_t array = apart; array < arrays.size(); ++array) arrays[array].name.insert(0, "by_step/");
  return arrays;
}

std::vector<DetailArray> SequenceSums::full_detail(const DetailAxes& axes) const {
  std::vector<DetailArray> arrays;
  for (std::size_t metric = 0; metric < full_metric_count; ++metric) {
    arrays.push_back(combine_detail(full_metrics[metric].name, full_layers(metric), OverLayers::mean, axes,
                                    detail_heads, detail_steps));
  }
  return arrays;
}

}  // namespace evictsim::analysis

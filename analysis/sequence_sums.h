#pragma once
/// \file
/// The sums that a sequence's results are made of: for every point and layer, over decode rows. Internal to analysis/.

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "analysis/cache_sizes.h"
#include "analysis/damage/summed_errors.h"
#include "analysis/quantiles.h"
#include "analysis/row_sums.h"
#include "analysis/run_accumulator.h"
#include "analysis/tier_detail.h"
#include "analysis/tier_sums.h"

namespace evictsim::analysis {

/// What is summed by row.
enum RowMetric : std::size_t {
  retained_mass,
  output_error,
  dilution,
  entropy,
  regret,
  oracle_gain,
  premature_evictions,
  sink_mass,  // as sim::TokenClass orders them
  useful_mass,
  distractor_mass,
  decoded_mass,
  layer_error,
  squared_error,
  resident_entries,
  resident_bytes,
  evictions_per_step,
  lost_sink_mass,
  row_metric_count,
};

/// The sums of one point in one layer.
struct LayerSums {
  std::array<RowSums, row_metric_count> by_row;
  std::array<RowSums, row_metric_count> by_step;  ///< means over heads, where steps are kept beside other axes
  bool has_cut = false;
  std::int64_t cache_heads = 0;
  std::int64_t kept = 0, kept_paged = 0, evidence_kept = 0;  ///< over cache heads
  double oracle_overlap = not_available;                     ///< mean over cache heads
  std::int64_t cuts = 0, scored_entries = 0;                 ///< scored over cache heads
  std::int32_t last_row = -1;                                ///< evaluated so far; -1 before the first
  TierSums tiers;
  LayerSizes sizes;
};

struct PointState {
  std::vector<LayerSums> layers;
  Quantiles output_errors;
  TierDetail tiers;  ///< with an axis of steps
};

/// What is summed by row of the full cache.
enum FullMetric : std::size_t {
  dilution_full,
  entropy_full,
  sink_mass_full,  // as sim::TokenClass orders them
  useful_mass_full,
  distractor_mass_full,
  decoded_mass_full,
  full_metric_count,
};
using FullSums = std::array<RowSums, full_metric_count>;

/// Everything summed so far of the sequence at hand.
struct SequenceSums {
  SequenceSums(const sim::SequenceStart& sequence_start, std::size_t points, std::vector<std::int32_t> evidence_rows,
               const DetailAxes& axes);

  [[nodiscard]] std::vector<const RowSums*> layers_of(std::size_t point, std::size_t metric) const {
    std::vector<const RowSums*> sums;
    for (const LayerSums& layer : point_states[point].layers) sums.push_back(&layer.by_row[metric]);
    return sums;
  }
  [[nodiscard]] std::vector<const RowSums*> full_layers(std::size_t metric) const {
    std::vector<const RowSums*> sums;
    for (const FullSums& layer : full) sums.push_back(&layer[metric]);
    return sums;
  }
  [[nodiscard]] bool lacks_projection(std::size_t point) const {
    const std::vector<LayerSums>& layers = point_states[point].layers;
    return std::any_of(layers.begin(), layers.end(), [](const LayerSums& layer) {
      return layer.by_row[layer_error].rows() < layer.by_row[output_error].rows();
    });
  }
  void fill_cut(std::size_t point, RunRow& row) const;
  void fill_decode(std::size_t point, RunRow& row) const;
  /// m_l by layer, and the index of damage.
  void fill_damage(std::size_t point, RunRow& row) const;
  [[nodiscard]] RunRow row_of(std::size_t point, const sim::ReplayPlan& plan) const;
  [[nodiscard]] std::vector<DetailArray> detail_of(std::size_t point, const DetailAxes& axes) const;
  [[nodiscard]] std::vector<DetailArray> full_detail(const DetailAxes& axes) const;

  sim::SequenceStart start;
  Steps steps;
  std::vector<std::size_t> sampled;
  std::vector<std::int32_t> evidence;
  std::size_t detail_heads, detail_steps;
  std::vector<FullSums> full;
  std::vector<PointState> point_states;
  std::optional<EntryDetail> entries;  ///< where asked for
  SummedErrors summed_errors;
  std::vector<std::pair<std::size_t, std::string>> skipped, failed;
};

}  // namespace evictsim::analysis

#include "analysis/run_accumulator.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <span>

#include "analysis/quantiles.h"
#include "analysis/row_sums.h"
#include "analysis/tier_sums.h"
#include "traces/error.h"

namespace evictsim::analysis {
namespace {

constexpr std::int64_t page_entries = 16;

/// What is summed by row.
enum RowMetric : std::size_t {
  retained_mass,
  output_error,
  dilution,
  entropy,
  regret,
  oracle_gain,
  premature_evictions,
  layer_error,
  squared_error,
  resident_entries,
  resident_bytes,
  evictions_per_step,
  row_metric_count,
};

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
    {"layer_error", false, OverLayers::mean, Metric::layer_error, Metric::layer_error_low, Metric::layer_error_high},
    {"squared_error", false, OverLayers::sum, Metric::squared_error, Metric::squared_error_low,
     Metric::squared_error_high},
    {"resident_entries", false, OverLayers::mean, Metric::resident_entries, Metric::resident_entries_low,
     Metric::resident_entries_high},
    {"resident_bytes", false, OverLayers::sum, Metric::resident_bytes, Metric::resident_bytes_low,
     Metric::resident_bytes_high},
    {"evictions_per_step", false, OverLayers::mean, Metric::evictions_per_step, Metric::evictions_per_step_low,
     Metric::evictions_per_step_high},
}};

bool behind_projection(std::size_t metric) { return metric == layer_error || metric == squared_error; }

void put(const Estimate& unbounded, const RowMetricTraits& columns, RunRow& row) {
  const Estimate value = within_range(columns.mean, unbounded);
  row[columns.mean] = value.mean;
  if (columns.low) row[*columns.low] = value.low;
  if (columns.high) row[*columns.high] = value.high;
}

/// Prompt tokens inside evidence spans, ascending.
std::vector<std::int32_t> evidence_tokens(const std::vector<traces::Span>& spans, std::int32_t prompt_length) {
  std::vector<std::int32_t> tokens;
  for (const traces::Span& span : spans) {
    for (std::int32_t token = span.first; token < std::min(span.last, prompt_length); ++token) tokens.push_back(token);
  }
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  return tokens;
}

std::int64_t count_common(const std::vector<std::int32_t>& left, const std::vector<std::int32_t>& right) {
  std::int64_t common = 0;
  for (auto l = left.begin(), r = right.begin(); l != left.end() && r != right.end();) {
    if (*l == *r) ++common;
    const bool advance_left = *l <= *r;
    const bool advance_right = *r <= *l;
    if (advance_left) ++l;
    if (advance_right) ++r;
  }
  return common;
}

/// The sums of one point in one layer.
struct LayerSums {
  std::array<RowSums, row_metric_count> by_row;
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
};

struct FullSums {
  RowSums dilution, entropy;
};

}  // namespace

struct RunAccumulator::Sequence {
  Sequence(const sim::SequenceStart& sequence_start, std::size_t points, std::vector<std::int32_t> evidence_rows,
           const DetailAxes& axes)
      : start(sequence_start),
        steps(start.decode_rows),
        sampled(sampled_steps(start.decode_rows.size())),
        evidence(std::move(evidence_rows)),
        detail_heads(!axes.any() ? 0
                     : axes.head ? static_cast<std::size_t>(start.query_heads)
                                 : 1),
        detail_steps(axes.step ? steps.count() : 1),
        full(start.layers.size()),
        point_states(points) {
    for (FullSums& sums : full) sums.dilution = sums.entropy = RowSums(steps.batches(), detail_heads, detail_steps);
    for (PointState& state : point_states) {
      state.layers.resize(start.layers.size());
      for (LayerSums& sums : state.layers) {
        for (std::size_t metric = 0; metric < row_metric_count; ++metric) {
          const std::size_t heads = row_metrics[metric].by_head ? detail_heads : std::min<std::size_t>(detail_heads, 1);
          sums.by_row[metric] = RowSums(steps.batches(), heads, detail_steps);
        }
      }
    }
  }

  [[nodiscard]] std::vector<const RowSums*> layers_of(std::size_t point, std::size_t metric) const {
    std::vector<const RowSums*> sums;
    for (const LayerSums& layer : point_states[point].layers) sums.push_back(&layer.by_row[metric]);
    return sums;
  }
  template <typename Member>
  [[nodiscard]] std::vector<const RowSums*> full_layers(Member member) const {
    std::vector<const RowSums*> sums;
    for (const FullSums& layer : full) sums.push_back(&(layer.*member));
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
  [[nodiscard]] RunRow row_of(std::size_t point, const sim::ReplayPlan& plan) const;
  [[nodiscard]] std::vector<DetailArray> detail_of(std::size_t point, const DetailAxes& axes) const;

  sim::SequenceStart start;
  Steps steps;
  std::vector<std::size_t> sampled;
  std::vector<std::int32_t> evidence;
  std::size_t detail_heads, detail_steps;
  std::vector<FullSums> full;
  std::vector<PointState> point_states;
  std::vector<std::pair<std::size_t, std::string>> skipped, failed;
};

void RunAccumulator::Sequence::fill_cut(std::size_t point, RunRow& row) const {
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

void RunAccumulator::Sequence::fill_decode(std::size_t point, RunRow& row) const {
  for (std::size_t metric = 0; metric < row_metric_count; ++metric) {
    if (behind_projection(metric) && lacks_projection(point)) continue;
    const RowMetricTraits& traits = row_metrics[metric];
    put(combine_layers(layers_of(point, metric), traits.over_layers), traits, row);
  }
  put(ratio_of_means(layers_of(point, regret), layers_of(point, oracle_gain), smallest_oracle_gain),
      {"normalised_regret", true, OverLayers::mean, Metric::normalised_regret, Metric::normalised_regret_low,
       Metric::normalised_regret_high},
      row);
  put(combine_layers(full_layers(&FullSums::dilution), OverLayers::mean),
      {"dilution_full", true, OverLayers::mean, Metric::dilution_full, Metric::dilution_full_low,
       Metric::dilution_full_high},
      row);
  put(combine_layers(full_layers(&FullSums::entropy), OverLayers::mean),
      {"entropy_full", true, OverLayers::mean, Metric::entropy_full, Metric::entropy_full_low,
       Metric::entropy_full_high},
      row);

  const PointState& state = point_states[point];
  row[Metric::output_error_median] = state.output_errors.at(0.5);
  row[Metric::output_error_p95] = state.output_errors.at(0.95);
  row[Metric::output_error_p99] = state.output_errors.at(0.99);
  std::vector<const TierSums*> tiers;
  for (const LayerSums& layer : state.layers) tiers.push_back(&layer.tiers);
  TierSums::fill(tiers, state.output_errors.count() > 0, row);
}

RunRow RunAccumulator::Sequence::row_of(std::size_t point, const sim::ReplayPlan& plan) const {
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
  return row;
}

std::vector<DetailArray> RunAccumulator::Sequence::detail_of(std::size_t point, const DetailAxes& axes) const {
  std::vector<DetailArray> arrays;
  for (std::size_t metric = 0; metric < row_metric_count; ++metric) {
    const RowMetricTraits& traits = row_metrics[metric];
    DetailAxes own = axes;
    if (!traits.by_head) own.head = false;
    if (!own.any() || (behind_projection(metric) && lacks_projection(point))) continue;
    arrays.push_back(combine_detail(traits.name, layers_of(point, metric), traits.over_layers, own,
                                    own.head ? detail_heads : 1, detail_steps));
  }
  return arrays;
}

DetailAxes DetailAxes::parse(std::string_view text) {
  DetailAxes axes;
  while (true) {
    const std::size_t comma = text.find(',');
    const std::string_view name = text.substr(0, comma);
    if (name == "layer") {
      axes.layer = true;
    } else if (name == "head") {
      axes.head = true;
    } else if (name == "step") {
      axes.step = true;
    } else {
      throw Error(ErrorCode::unknown_name, "must be a list of layer, head and step",
                  {.file = {}, .dataset = {}, .parameter = "--per", .value = std::string(name)});
    }
    if (comma == std::string_view::npos) return axes;
    text.remove_prefix(comma + 1);
  }
}

EvidenceSpans evidence_spans(const std::vector<traces::Reader>& readers) {
  EvidenceSpans spans;
  for (const traces::Reader& reader : readers) {
    std::vector<std::vector<traces::Span>>& of_trace = spans.emplace_back();
    for (const traces::SequenceInfo& sequence : reader.sequences()) {
      const auto found = sequence.spans.find("evidence");
      of_trace.push_back(found == sequence.spans.end() ? std::vector<traces::Span>{} : found->second);
    }
  }
  return spans;
}

RunAccumulator::RunAccumulator(const sim::ReplayPlan& plan, EvidenceSpans evidence, DetailAxes axes,
                               std::function<void(SequenceResult&&)> finished)
    : plan_(plan), evidence_(std::move(evidence)), axes_(axes), finished_(std::move(finished)) {}

RunAccumulator::~RunAccumulator() = default;

void RunAccumulator::begin_sequence(const sim::SequenceStart& start) {
  const std::vector<traces::Span>& spans = evidence_.at(start.trace).at(start.sequence);
  current_ = std::make_unique<Sequence>(start, plan_.points.size(), evidence_tokens(spans, start.prompt_length), axes_);
}

void RunAccumulator::skipped(std::size_t policy, const std::string& why) {
  current_->skipped.emplace_back(policy, why);
}

void RunAccumulator::failed(std::size_t policy, const std::string& why) { current_->failed.emplace_back(policy, why); }

void RunAccumulator::prompt_cut(sim::PromptCut&& cut) {
  LayerSums& sums = current_->point_states[cut.point].layers[cut.layer];
  sums.has_cut = true;
  sums.cache_heads = cut.cache_heads;
  sums.sizes.begin(cut, current_->sampled.size());
  sums.scored_entries += cut.scored_entries;
  if (cut.scored_entries > 0) ++sums.cuts;
  for (const std::vector<std::int32_t>& kept : cut.kept) {
    const auto entries = static_cast<std::int64_t>(kept.size());
    sums.kept += entries;
    sums.kept_paged += (entries + page_entries - 1) / page_entries * page_entries;
    sums.evidence_kept += count_common(kept, current_->evidence);
  }
  sums.tiers.begin(cut.stored,
                   static_cast<double>(sums.kept * 2 * current_->start.head_dim * current_->start.stored_bytes));
  if (!cut.oracle_overlap.empty()) {
    double overlap = 0;
    for (const double share : cut.oracle_overlap) overlap += share;
    sums.oracle_overlap = overlap / static_cast<double>(cut.oracle_overlap.size());
  }
}

void RunAccumulator::full_block(const sim::FullBlock& block) {
  FullSums& sums = current_->full[block.layer];
  for (std::size_t index = 0; index < block.rows.size(); ++index) {
    const std::size_t step = current_->steps.step_of(block.rows[index]);
    const std::size_t batch = current_->steps.batch_of_step(step);
    const auto add = [&](RowSums& target, const models::MatrixView& values) {
      const auto row = static_cast<models::Index>(index);
      target.add(
          step, batch, [&](std::size_t head) { return values(row, static_cast<models::Index>(head)); },
          static_cast<std::size_t>(values.cols()));
    };
    add(sums.dilution, block.dilution);
    add(sums.entropy, block.entropy);
  }
}

void RunAccumulator::layer_block(const sim::LayerBlock& block) {
  PointState& state = current_->point_states[block.point];
  LayerSums& sums = state.layers[block.layer];
  const bool projected = !block.error_squared.empty();
  for (std::size_t index = 0; index < block.rows.size(); ++index) {
    const std::size_t step = current_->steps.step_of(block.rows[index]);
    const std::size_t batch = current_->steps.batch_of_step(step);
    const auto row = static_cast<models::Index>(index);
    const auto add = [&](RowMetric metric, const models::MatrixView& values) {
      sums.by_row[metric].add(
          step, batch, [&](std::size_t head) { return values(row, static_cast<models::Index>(head)); },
          static_cast<std::size_t>(values.cols()));
    };
    add(retained_mass, block.retained_mass);
    add(output_error, block.output_error);
    add(dilution, block.dilution);
    add(entropy, block.entropy);
    add(regret, block.regret);
    add(oracle_gain, block.oracle_gain);
    add(premature_evictions, block.premature_evictions);
    const auto add_value = [&](RowMetric metric, double value) {
      sums.by_row[metric].add(
          step, batch, [value](std::size_t) { return value; }, 1);
    };
    const auto heads = static_cast<std::size_t>(sums.cache_heads);
    const auto over_heads = [&](std::span<const std::int32_t> counts) {
      const auto of_row = counts.subspan(index * heads, heads);
      return static_cast<double>(std::accumulate(of_row.begin(), of_row.end(), std::int64_t{0}));
    };
    const auto sample = std::lower_bound(current_->sampled.begin(), current_->sampled.end(), step);
    if (sample != current_->sampled.end() && *sample == step) {
      sums.sizes.note(block, index, static_cast<std::size_t>(sample - current_->sampled.begin()));
    }
    const double resident = over_heads(block.resident);
    add_value(resident_entries, resident / static_cast<double>(heads));
    add_value(resident_bytes, resident * 2 * current_->start.head_dim * current_->start.stored_bytes);
    add_value(evictions_per_step, over_heads(block.evicted) / static_cast<double>(heads));
    const models::MatrixView& errors = block.output_error;
    state.output_errors.add({errors.data() + row * errors.outerStride(), static_cast<std::size_t>(errors.cols())});
    if (!projected) continue;
    const double error = block.error_squared[index];
    // A layer that writes nothing at all is exact when the cut one writes nothing either.
    const double relative = error == 0 ? 0.0 : std::sqrt(error / block.output_squared[index]);
    add_value(layer_error, relative);
    add_value(squared_error, error);
  }
  sums.tiers.add(block.traffic);
  sums.cuts += block.cuts;
  sums.scored_entries += block.scored_entries;
  sums.last_row = block.rows.back();
}

void RunAccumulator::fill_optimality_gaps(const std::vector<std::size_t>& points, std::vector<RunRow>& rows) const {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const sim::ReplayPoint& point = plan_.points[points[i]];
    const policies::Policy& policy = plan_.policies[point.policy];
    if (policy.never_cuts() || !policy.schedule->cuts_while_decoding()) {
      // For one cut the oracle's set of the regret is the optimum.
      if (!policy.places()) rows[i][Metric::optimality_gap] = rows[i][Metric::regret];
      continue;
    }
    for (std::size_t j = 0; j < rows.size(); ++j) {
      const sim::ReplayPoint& other = plan_.points[points[j]];
      const policies::Policy& optimum = plan_.policies[other.policy];
      if (!optimum.is_optimum || optimum.terms != policy.terms || !(other.budget == point.budget)) continue;
      rows[i][Metric::optimality_gap] = rows[j][Metric::retained_mass] - rows[i][Metric::retained_mass];
    }
  }
}

void RunAccumulator::end_sequence() {
  // Layers fail in any order, and often for one reason.
  std::sort(current_->failed.begin(), current_->failed.end());
  current_->failed.erase(std::unique(current_->failed.begin(), current_->failed.end()), current_->failed.end());
  const Sequence& sequence = *current_;
  SequenceResult result{.start = sequence.start,
                        .rows = {},
                        .points = {},
                        .sizes = {},
                        .skipped = sequence.skipped,
                        .failed = sequence.failed,
                        .full_detail = {},
                        .detail = {}};
  for (std::size_t point = 0; point < plan_.points.size(); ++point) {
    const std::size_t policy = plan_.points[point].policy;
    if (std::any_of(sequence.skipped.begin(), sequence.skipped.end(),
                    [policy](const auto& entry) { return entry.first == policy; })) {
      continue;
    }
    result.rows.push_back(sequence.row_of(point, plan_));
    result.points.push_back(point);
    std::vector<LayerSizes>& sizes = result.sizes.emplace_back();
    if (result.rows.back().ok()) {
      for (LayerSums& layer : current_->point_states[point].layers) sizes.push_back(std::move(layer.sizes));
    }
    if (!axes_.any()) continue;
    result.detail.push_back(result.rows.back().ok() ? sequence.detail_of(point, axes_) : std::vector<DetailArray>{});
  }
  fill_optimality_gaps(result.points, result.rows);
  if (axes_.any()) {
    const auto add = [&](const char* name, RowSums FullSums::*member) {
      result.full_detail.push_back(combine_detail(name, sequence.full_layers(member), OverLayers::mean, axes_,
                                                  sequence.detail_heads, sequence.detail_steps));
    };
    add("dilution_full", &FullSums::dilution);
    add("entropy_full", &FullSums::entropy);
  }
  current_.reset();
  finished_(std::move(result));
}

void RunAccumulator::progress(double /*share*/) {}

}  // namespace evictsim::analysis

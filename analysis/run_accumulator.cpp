#include "analysis/run_accumulator.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "analysis/sequence_sums.h"

namespace evictsim::analysis {
namespace {

constexpr std::int64_t page_entries = 16;

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

}  // namespace

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
  current_ =
      std::make_unique<SequenceSums>(start, plan_.points.size(), evidence_tokens(spans, start.prompt_length), axes_);
}

void RunAccumulator::skipped(std::size_t policy, const std::string& why) {
  current_->skipped.emplace_back(policy, why);
}

void RunAccumulator::failed(std::size_t policy, const std::string& why) { current_->failed.emplace_back(policy, why); }

void RunAccumulator::prompt_cut(sim::PromptCut&& cut) {
  if (current_->entries) current_->entries->add(cut);
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
    add(sums[dilution_full], block.dilution);
    add(sums[entropy_full], block.entropy);
    for (std::size_t kind = 0; kind < block.class_mass.size(); ++kind) {
      const models::Matrix& masses = block.class_mass[kind];
      add(sums[sink_mass_full + kind], models::view(masses.data(), masses.rows(), masses.cols()));
    }
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
      const auto of_head = [&](std::size_t head) { return values(row, static_cast<models::Index>(head)); };
      sums.by_row[metric].add(step, batch, of_head, static_cast<std::size_t>(values.cols()));
      if (axes_.steps) sums.by_step[metric].add(step, batch, of_head, static_cast<std::size_t>(values.cols()));
    };
    add(retained_mass, block.retained_mass);
    add(output_error, block.output_error);
    add(dilution, block.dilution);
    add(entropy, block.entropy);
    add(regret, block.regret);
    add(oracle_gain, block.oracle_gain);
    add(premature_evictions, block.premature_evictions);
    for (std::size_t kind = 0; kind < block.class_mass.size(); ++kind) {
      const models::Matrix& masses = block.class_mass[kind];
      add(static_cast<RowMetric>(sink_mass + kind), models::view(masses.data(), masses.rows(), masses.cols()));
    }
    const auto add_value = [&](RowMetric metric, double value) {
      const auto same = [value](std::size_t) { return value; };
      sums.by_row[metric].add(step, batch, same, 1);
      if (axes_.steps) sums.by_step[metric].add(step, batch, same, 1);
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
    if (!block.lost_sink_mass.empty()) add_value(lost_sink_mass, block.lost_sink_mass[index]);
    if (axes_.any_step()) {
      state.tiers.add(block, index, step, std::int64_t{2} * current_->start.head_dim * current_->start.stored_bytes);
    }
    if (!projected) continue;
    const double error = block.error_squared[index];
    // A layer that writes nothing at all is exact when the cut one writes nothing either.
    const double relative = error == 0 ? 0.0 : std::sqrt(error / block.output_squared[index]);
    add_value(layer_error, relative);
    add_value(squared_error, error);
  }
  current_->summed_errors.add(block);
  sums.tiers.add(block.traffic);
  sums.cuts += block.cuts;
  sums.scored_entries += block.scored_entries;
  sums.last_row = block.rows.back();
}

void RunAccumulator::full_entries(const sim::FullEntries& entries) {
  if (current_->entries) current_->entries->add(entries);
}

void RunAccumulator::entry_losses(const sim::EntryLosses& losses) {
  if (current_->entries) current_->entries->add(losses);
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
  const SequenceSums& sequence = *current_;
  SequenceResult result{.start = sequence.start,
                        .rows = {},
                        .points = {},
                        .sizes = {},
                        .skipped = sequence.skipped,
                        .failed = sequence.failed,
                        .full_detail = {},
                        .detail = {},
                        .full_entries = {},
                        .entries = {}};
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
    if (sequence.entries) {
      result.entries.push_back(result.rows.back().ok() ? sequence.entries->of(point) : std::vector<EntryArray>{});
    }
    if (!axes_.any()) continue;
    result.detail.push_back(result.rows.back().ok() ? sequence.detail_of(point, axes_) : std::vector<DetailArray>{});
  }
  fill_optimality_gaps(result.points, result.rows);
  if (axes_.any()) result.full_detail = sequence.full_detail(axes_);
  if (sequence.entries) result.full_entries = sequence.entries->full();
  current_.reset();
  finished_(std::move(result));
}

void RunAccumulator::progress(double /*share*/) {}

}  // namespace evictsim::analysis

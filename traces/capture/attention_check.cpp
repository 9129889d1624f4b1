#include "traces/capture/attention_check.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "models/attention.h"
#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

// Attention of every query head of one row, heads side by side: [Hq * d].
std::vector<double> attend(const Header& header, const LayerTensors& tensors, std::size_t query_index, std::int32_t row,
                           std::span<const std::int32_t> positions, int window) {
  const auto width = static_cast<std::size_t>(header.head_dim);
  const auto length = static_cast<std::size_t>(tensors.length);
  const models::LogitRule rule{.scale = header.attention_scale, .softcap = header.logit_softcap};
  const models::EntryRange visible = models::visible_entries(positions, row, window);
  std::vector<std::int32_t> entries(static_cast<std::size_t>(visible.last - visible.first));
  std::iota(entries.begin(), entries.end(), static_cast<std::int32_t>(visible.first));
  const auto head_of = [&](const std::vector<float>& heads, std::size_t head) {
    return models::view(heads.data() + head * length * width, tensors.length, header.head_dim);
  };
  std::vector<double> output;
  for (std::size_t head = 0; head < static_cast<std::size_t>(header.num_query_heads); ++head) {
    const std::size_t kv_head = head / static_cast<std::size_t>(header.group_size());
    const auto query = std::span(tensors.q).subspan((head * tensors.q_rows.size() + query_index) * width, width);
    const auto weights = models::reference_weights(query, head_of(tensors.k, kv_head), entries, rule);
    const auto mean = models::reference_output(weights, head_of(tensors.v, kv_head), entries);
    output.insert(output.end(), mean.begin(), mean.end());
  }
  return output;
}

double relative_error(std::span<const double> heads, std::span<const float> w_o, std::span<const float> engine) {
  double difference = 0, reference = 0;
  for (std::size_t i = 0; i < engine.size(); ++i) {
    double sum = 0;
    for (std::size_t j = 0; j < heads.size(); ++j) sum += heads[j] * static_cast<double>(w_o[i * heads.size() + j]);
    const auto expected = static_cast<double>(engine[i]);
    difference += (sum - expected) * (sum - expected);
    reference += expected * expected;
  }
  return reference > 0 ? std::sqrt(difference / reference) : std::sqrt(difference);
}

}  // namespace

AttentionCheck::AttentionCheck(std::vector<int> layers, std::vector<std::int32_t> rows, int hidden_size)
    : layers_(std::move(layers)), rows_(std::move(rows)), hidden_(static_cast<std::size_t>(hidden_size)) {}

void AttentionCheck::add(const StepRows& step) {
  for (const std::int32_t row : rows_) {
    if (row < step.first || row >= step.first + step.count) continue;
    const auto place = static_cast<std::ptrdiff_t>(static_cast<std::size_t>(row - step.first) * hidden_);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const auto begin = step.layers[i].attention_output.begin() + place;
      engine_[{layers_[i], row}].assign(begin, begin + static_cast<std::ptrdiff_t>(hidden_));
    }
  }
}

AttentionCheckResult AttentionCheck::compare(const Reader& reader, std::size_t sequence) const {
  const Header& header = reader.header();
  const SequenceInfo& info = reader.sequences().at(sequence);
  AttentionCheckResult result;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const int layer = layers_[i];
    const LayerTensors tensors = reader.read_layer(sequence, layer);
    const auto w_o = reader.read_weight(layer, LayerWeight::w_o);
    if (!w_o) {
      throw Error(ErrorCode::missing_data, "the check needs w_o in the trace",
                  {.file = reader.path().string(), .dataset = "/model"});
    }
    const int window = header.sliding_window.empty() ? 0 : header.sliding_window[i];
    for (const std::int32_t row : rows_) {
      const auto query = std::lower_bound(tensors.q_rows.begin(), tensors.q_rows.end(), row);
      if (query == tensors.q_rows.end() || *query != row) continue;
      const auto heads = attend(header, tensors, static_cast<std::size_t>(query - tensors.q_rows.begin()), row,
                                info.positions, window);
      const double error = relative_error(heads, w_o->data, engine_.at({layer, row}));
      ++result.compared;
      result.mean += error;
      // Written so that a NaN is kept, not skipped.
      if (!(error <= result.largest)) {
        result.largest = error;
        result.layer = layer;
        result.row = row;
      }
    }
  }
  if (result.compared > 0) result.mean /= static_cast<double>(result.compared);
  return result;
}

}  // namespace evictsim::traces::capture

#pragma once
/// \file
/// Per-token channels of one request: values that the engine pushes, and those reduced here from logits and from the
/// residual stream. Definitions: docs/trace-format.md.

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "traces/capture/row_batch.h"
#include "traces/capture/sink/capture_options.h"
#include "traces/capture/token_statistics.h"
#include "traces/reader.h"

namespace evictsim::traces::capture {

/// Rows of one (role, layer) come in token order. A channel that misses a row is left out of the trace as a whole.
class TokenChannels {
 public:
  /// `model` and `options` must outlive this object.
  TokenChannels(const ModelRecord& model, const CaptureOptions& options);

  /// Values of a channel's role from row `first` on; `place` counts captured layers.
  void add_values(Role role, std::size_t place, std::int32_t first, std::span<const float> values);
  /// Logits [rows, vocab]; `token_ids` are all tokens of the request known so far.
  void add_logits(std::int32_t first, std::span<const float> rows, std::span<const std::int32_t> token_ids,
                  DistributionReducer& reducer);
  /// The residual stream [rows, D] entering model layer `layer`, num_layers: leaving the last one.
  void add_hidden(int layer, std::int32_t first, std::span<const float> rows);
  /// The residual stream behind the attention block of captured layer `place`.
  void add_after_attention(std::size_t place, std::int32_t first, std::span<const float> rows);

  /// The channels that have all of the first `length` rows, in the format's shapes.
  [[nodiscard]] std::map<Channel, std::vector<float>> finish(std::int32_t length) const;

 private:
  struct Column {
    std::vector<float> values;
    bool broken = false;  ///< a row was missing
  };
  struct Rows {
    std::int32_t first = 0;
    std::vector<float> values;
  };
  [[nodiscard]] bool wanted(Role role) const { return options_->channels[static_cast<std::size_t>(role)]; }
  void put(Role role, std::size_t place, std::int32_t token, std::span<const float> values);
  void put(Role role, std::size_t place, std::int32_t token, double value);
  void add_step_norms(std::size_t place, std::int32_t first, std::span<const float> rows);
  void add_final_cosines(std::int32_t first, std::span<const float> rows);

  const ModelRecord* model_;
  const CaptureOptions* options_;
  std::array<std::vector<Column>, role_count> columns_;
  Rows last_logits_;  ///< one row whose next token is not known yet
  double last_normaliser_ = 0;
  Rows entering_;  ///< the latest captured layer's input, for cos_attention
  int entering_layer_ = -1;
  std::vector<std::vector<float>> last_output_;  ///< per captured layer
  std::vector<Rows> outputs_;                    ///< per captured layer, of the step at hand, for cos_final
  std::size_t held_ = 0;                         ///< bytes of `outputs_`
};

}  // namespace evictsim::traces::capture

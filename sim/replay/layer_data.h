#pragma once
/// \file
/// One layer of one sequence in memory, with the views that the replay works on.

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "models/attention.h"
#include "models/geometry.h"
#include "models/matrix.h"
#include "models/rope.h"
#include "sim/replay/side_data.h"
#include "traces/header.h"

namespace evictsim::sim {

using models::Index;
using models::Matrix;
using models::MatrixView;

/// Tensors of one layer and what is needed to attend over them.
class LayerData {
 public:
  LayerData(const models::Geometry& geometry, const models::Rope& rope, const traces::SequenceInfo& sequence,
            std::size_t captured_layer, traces::LayerTensors tensors, LayerSide side = {});

  /// Puts other decode rows in place of the recorded ones: k and v [rows, Hkv, d], q [rows, Hq, d], as many rows as
  /// decode_rows() has; every token row of the decode must have a query.
  void replace_decode_rows(std::span<const float> k, std::span<const float> v, std::span<const float> q);
  /// The same for what enters the layer, [rows, D] behind the norm before attention.
  void replace_decode_input(const Matrix& input);
  /// Hands the tensors back, for their memory.
  [[nodiscard]] traces::LayerTensors tensors() && { return std::move(tensors_); }

  [[nodiscard]] const models::Geometry& geometry() const { return geometry_; }
  [[nodiscard]] const models::Rope& rope() const { return rope_; }
  [[nodiscard]] const traces::SequenceInfo& sequence() const { return sequence_; }
  [[nodiscard]] const LayerSide& side() const& { return side_; }
  [[nodiscard]] LayerSide side() && { return std::move(side_); }
  /// Bytes of one stored component of k or v.
  [[nodiscard]] int component_bytes() const { return side_.component_bytes; }
  [[nodiscard]] int layer() const { return layer_; }  ///< index in the model
  [[nodiscard]] int sliding_window() const { return sliding_window_; }
  [[nodiscard]] models::LogitRule logit_rule() const { return {geometry_.attention_scale, geometry_.logit_softcap}; }
  [[nodiscard]] Index length() const { return tensors_.length; }
  [[nodiscard]] Index prompt_length() const { return sequence_.prompt_length; }
  [[nodiscard]] std::span<const std::int32_t> positions() const { return sequence_.positions; }

  /// Rows 0 .. rows - 1 of a KV head: [rows, d].
  [[nodiscard]] MatrixView keys(int kv_head, Index rows) const;
  [[nodiscard]] MatrixView values(int kv_head, Index rows) const;
  /// Token rows with a query, ascending; and all queries of a query head in that order: [Tq, d].
  [[nodiscard]] std::span<const std::int32_t> query_rows() const { return tensors_.q_rows; }
  [[nodiscard]] MatrixView queries(int query_head) const;
  /// Place of token row `row` in `query_rows()`; -1 when it has no query.
  [[nodiscard]] Index query_place(Index row) const;
  /// Decode rows (t >= prompt_length) that have a query, ascending.
  [[nodiscard]] std::span<const std::int32_t> decode_rows() const;

  /// Queries of token rows `rows` for the group of a KV head, [G * rows, d]; query head g has rows g*R .. g*R + R - 1.
  [[nodiscard]] Matrix group_queries(int kv_head, std::span<const std::int32_t> rows) const;
  /// What those columns may see.
  [[nodiscard]] std::vector<models::EntryRange> group_visibility(std::span<const std::int32_t> rows) const;

 private:
  const models::Geometry& geometry_;
  const models::Rope& rope_;
  const traces::SequenceInfo& sequence_;
  int layer_;
  int sliding_window_;
  traces::LayerTensors tensors_;
  LayerSide side_;
};

}  // namespace evictsim::sim

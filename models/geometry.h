#pragma once
/// \file
/// The attention geometry of an LLM: heads, groups and the constants of its softmax.

#include <vector>

#include "traces/header.h"

namespace evictsim::models {

/// Shape of one model's attention, checked once (`Geometry::of` throws Error otherwise).
/// Query head h belongs to KV head h / group_size().
struct Geometry {
  int num_layers = 0;       ///< layers of the model
  std::vector<int> layers;  ///< captured layers, ascending
  int num_query_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int hidden_size = 0;
  double attention_scale = 0;
  double logit_softcap = 0;         ///< 0 = none
  std::vector<int> sliding_window;  ///< per captured layer, 0 = full attention; empty = all full

  static Geometry of(const traces::Header& header);

  [[nodiscard]] int group_size() const { return num_query_heads / num_kv_heads; }
  [[nodiscard]] int kv_head_of(int query_head) const { return query_head / group_size(); }
  /// Window of a captured layer given by its place in `layers`; 0 = full attention.
  [[nodiscard]] int window_of(std::size_t captured) const {
    return sliding_window.empty() ? 0 : sliding_window[captured];
  }
};

}  // namespace evictsim::models

#pragma once
/// \file
/// What a front end hands over after every forward step of an engine. Nothing here depends on the engine.

#include <cstdint>
#include <span>
#include <vector>

namespace evictsim::traces::capture {

/// One captured layer's rows of a step, row-major float32, one row per token. Empty where not asked for.
struct LayerRows {
  std::vector<float> query;             ///< [rows, Hq, d] after RoPE
  std::vector<float> key;               ///< [rows, Hkv, d] after RoPE
  std::vector<float> value;             ///< [rows, Hkv, d]
  std::vector<float> after_attention;   ///< [rows, D] residual stream after the attention block was added
  std::vector<float> attention_output;  ///< [rows, D] the engine's own attention times W_O, before bias and norm
};

/// Everything one step produced for its tokens.
struct StepRows {
  std::int32_t first = 0;         ///< token row of the first row
  std::int32_t count = 0;         ///< rows of this step
  std::vector<LayerRows> layers;  ///< in the order of the captured layers
  /// [num_layers + 1] residual stream [rows, D]: entry i enters layer i, the last one leaves the last layer; entries
  /// that no captured layer needs are empty.
  std::vector<std::vector<float>> residual;
  std::span<const float> logits;  ///< [rows, vocab]
};

}  // namespace evictsim::traces::capture

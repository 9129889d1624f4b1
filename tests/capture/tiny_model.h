#pragma once
/// \file
/// A random model of a few kilobytes, written as a real GGUF file, so that the whole capture path runs with no
/// download.

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace evictsim::tests {

/// What to write. Every weight is float32; the tokenizer knows single bytes only.
struct TinyModel {
  /// "llama": pairs 2i, 2i + 1. "qwen2": pairs i, i + d/2, biases on q, k, v, hidden = query_heads * head_dim.
  /// "stablelm": pairs i, i + rotary_dim/2, layer norms with bias, the same rule for hidden.
  /// "phi3": one fused product for q, k and v, the same rule again. "gemma2": soft cap, a scaling of q after RoPE,
  /// norms behind attention and feed-forward, every other layer with a sliding window.
  std::string architecture = "llama";
  int layers = 3;
  int query_heads = 4;
  int kv_heads = 2;
  int head_dim = 16;
  int hidden = 48;  ///< differs from query_heads * head_dim on purpose
  int context = 256;
  int rotary_dim = 16;
  float rope_base = 10000;
  float yarn_factor = 0;        ///< 0: no scaling
  bool rope_divisors = false;   ///< adds rope_freqs.weight
  int sliding_window = 200;     ///< "gemma2" only
  bool sliding_pattern = true;  ///< whether the file says which layers have it
  bool tokenizer = true;
  std::string chat_template;  ///< empty: none
};

/// The weights as written, by tensor name, row-major with the input dimension last.
using TinyWeights = std::map<std::string, std::vector<float>>;

/// Writes the file; the same description gives the same bytes.
TinyWeights write_tiny_model(const std::filesystem::path& path, const TinyModel& model);

/// Ids of the tiny tokenizer: byte b is token b + first_byte.
inline constexpr std::int32_t first_byte = 3;
inline constexpr int tiny_vocabulary = 260;

/// The token ids of a text without blanks.
std::vector<std::int32_t> tiny_tokens(const std::string& text);

}  // namespace evictsim::tests

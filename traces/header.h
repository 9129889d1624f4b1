#pragma once
/// \file
/// What a trace file says about its model and its sequences (docs/trace-format.md), as plain structs.

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace evictsim::traces {

inline constexpr const char* format_name = "evictsim-trace";
inline constexpr int format_version = 1;

/// Which components of a head RoPE pairs: `half` (i, i + r/2), `interleaved` (2i, 2i + 1), or no rotation.
enum class RopeLayout { half, interleaved, none };
/// The norm before attention: RMS, RMS with weight + 1 (Gemma), or layer norm.
enum class NormKind { rms, rms_plus_one, layer };
/// How tensors are stored.
enum class TensorType { float16, bfloat16, float32 };

/// Root attributes and the small datasets under /model.
struct Header {
  std::string model, engine, engine_version;
  std::string created;  ///< ISO 8601
  int num_layers = 0;   ///< layers of the model, not only the captured ones
  int num_query_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int hidden_size = 0;
  int vocab_size = 0;
  double attention_scale = 0;  ///< factor on q.k
  double logit_softcap = 0;    ///< 0 = none
  double rope_theta = 0;
  double rope_attention_scaling = 1;  ///< factor on cos and sin
  RopeLayout rope_layout = RopeLayout::half;
  std::optional<int> rotary_dim;  ///< first components rotated; absent: head_dim
  std::optional<double> norm_epsilon;
  std::optional<NormKind> norm_kind;
  std::optional<std::int64_t> dropped_rows;
  std::optional<double> capture_overhead;

  std::vector<int> layers;          ///< [L] indices of the captured layers, ascending
  std::vector<double> inv_freq;     ///< [rotary_dim / 2] frequencies really used
  std::vector<int> sliding_window;  ///< [L], 0 = full attention; empty when absent
  std::vector<double> sensitivity;  ///< [L] KL in nats per unit of mean squared error after W_O; empty when absent
  std::map<std::string, std::string> sensitivity_attributes;  ///< how the sensitivity was measured, as text
  /// Any further root attribute (capture settings such as `capture_threads`), as text.
  std::map<std::string, std::string> extra;

  [[nodiscard]] int group_size() const { return num_query_heads / num_kv_heads; }
  [[nodiscard]] int rotated() const { return rotary_dim.value_or(head_dim); }
};

/// Half-open token range.
struct Span {
  std::int32_t first = 0;
  std::int32_t last = 0;
  bool operator==(const Span&) const = default;
};

/// The span kinds of the format, in its order.
inline constexpr std::array<const char*, 6> span_kinds = {"evidence", "question", "document",
                                                          "turn",     "image",    "distractor"};

/// One recorded sequence: everything but the per-layer tensors and per-token channels.
struct SequenceInfo {
  std::string name;  ///< group name, for example "000000"
  std::int32_t prompt_length = 0;
  std::int32_t length = 0;  ///< tokens in all; decode rows are t >= prompt_length
  std::optional<std::string> request_id, task, text;
  /// [length] the bytes that every token stands for: they may hold zeros, and end within a character that the next
  /// token goes on with. Absent in traces that hold token ids alone.
  std::optional<std::vector<std::string>> token_texts;
  std::vector<std::int32_t> positions;             ///< [length] absolute, strictly increasing
  std::map<std::string, std::vector<Span>> spans;  ///< by kind; absent kinds have no key
};

/// Rows of a second forward pass over the same context.
struct SecondPass {
  std::vector<std::int32_t> positions;  ///< [Ts] absolute position of every row
  std::vector<Span> chunk;              ///< [Ts] the range of entries (token rows) that the row may see
};

/// A dense float32 array, row-major.
struct Tensor {
  std::vector<std::size_t> shape;
  std::vector<float> data;
  [[nodiscard]] bool empty() const { return data.empty(); }
};

/// One layer of one sequence, converted to float32 and laid out head by head, so that every head is contiguous.
struct LayerTensors {
  std::int32_t length = 0;           ///< T
  std::vector<float> k, v;           ///< [Hkv, T, d]; k after RoPE
  std::vector<float> q;              ///< [Hq, Tq, d]; after RoPE
  std::vector<std::int32_t> q_rows;  ///< [Tq] token row of every row of q, ascending (0 .. T-1 when the file has none)
};

/// The stored spellings: "half", "interleaved", "none"; "rms", "rms_plus_one", "layer"; "float16", "bfloat16",
/// "float32".
const char* to_string(RopeLayout layout) noexcept;
const char* to_string(NormKind kind) noexcept;
const char* to_string(TensorType type) noexcept;

/// The name of a layer's group: "layer_007".
std::string layer_name(int layer);

}  // namespace evictsim::traces

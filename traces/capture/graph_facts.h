#pragma once
/// \file
/// What the engine's compute graph itself says about RoPE and attention. The operators' own parameters are exact for
/// any model, where metadata keys would have to be interpreted per architecture.

#include <string>
#include <vector>

struct ggml_tensor;

namespace evictsim::traces::capture {

/// Parameters of one RoPE operator.
struct RopeFacts {
  int rotated = 0;  ///< components rotated per head
  int mode = 0;     ///< 0: pairs (2i, 2i + 1), 2: pairs (i, i + rotated/2)
  int original_context = 0;
  double base = 0;
  double scale = 1;             ///< position factor of linear and YaRN scaling
  double extrapolation = 0;     ///< YaRN mix, 0 = off
  double attention_factor = 1;  ///< on cos and sin, before YaRN's own correction
  double beta_fast = 0;
  double beta_slow = 0;
  std::vector<float> divisors;  ///< [rotated/2] factors that divide the frequencies; empty: none
  bool operator==(const RopeFacts&) const = default;

  /// Radians per position of every rotated pair: [rotated/2].
  [[nodiscard]] std::vector<double> frequencies() const;
  /// Factor on cos and sin, YaRN's correction included.
  [[nodiscard]] double magnitude() const;
};

/// Parameters of one attention operator.
struct AttentionFacts {
  double scale = 0;  ///< on q.k, a scaling of q after RoPE included
  bool flash = false;
  std::string unsupported;  ///< why captured q and k would not give this attention back; empty: they do
};

/// Reads a ROPE node; `unsupported` receives the reason when its rotation cannot be written down in a trace.
RopeFacts read_rope(const ggml_tensor* node, std::string& unsupported);
/// Reads the attention operator behind `output`, the node with the heads' outputs side by side ("kqv_out-3"), of the
/// layer whose query node after RoPE is called `query_name`.
AttentionFacts read_attention(const ggml_tensor* output, const std::string& query_name);

}  // namespace evictsim::traces::capture

#pragma once
/// \file
/// Copies q, k, v and the residual stream out of llama.cpp's compute graph while it runs (its `cb_eval` hook).
/// docs/capture.md says which nodes and why.

#include <cstdint>
#include <exception>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "traces/capture/graph_facts.h"
#include "traces/capture/step_rows.h"

struct ggml_tensor;

namespace evictsim::traces::capture {

/// Expected sizes of one model's nodes, and what to take.
struct CollectorPlan {
  int num_layers = 0;
  std::vector<int> layers;  ///< captured layers, ascending
  int num_query_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int hidden_size = 0;
  bool attention_output = false;  ///< also the product with W_O, for checking
  bool residual = true;           ///< the residual stream where captured layers begin and end
};

/// Called when the attention output of a layer is there, before the engine goes on with it: `captured` is the layer's
/// place among the captured ones, `rows` what the step has of it so far (query, key, value), `output` the engine's own
/// output before W_O, [rows, Hq * d]. True: `output` was changed and goes back into the engine.
using AttentionHook = std::function<bool(std::size_t captured, const LayerRows& rows, std::span<float> output)>;

/// One forward step at a time: begin_step, the engine's decode call, finish_step.
class NodeCollector {
 public:
  explicit NodeCollector(CollectorPlan plan);

  /// The hook: `user` is a NodeCollector. Always lets the graph run on; a failure is kept for finish_step, because
  /// stopping the graph would leave the engine believing that the step succeeded.
  static bool on_node(ggml_tensor* node, bool ask, void* user) noexcept;

  /// From the next step on; empty: attention is left alone. What it throws comes out of finish_step.
  void set_attention_hook(AttentionHook hook) { hook_ = std::move(hook); }

  void begin_step(std::int32_t first_position, std::int32_t count);
  /// Inside the hook: the residual stream [rows, D] that enters a captured layer; empty where it is not collected.
  [[nodiscard]] std::span<const float> entering(std::size_t captured) const {
    return step_.residual[static_cast<std::size_t>(plan_.layers[captured])];
  }
  /// The rows of the step. Throws what the hook threw, and Error(unsupported) when a node was missing, of another
  /// shape, or when the graph's attention cannot be recomputed from q and k. The logits are not filled in.
  StepRows finish_step();

  /// Of a captured layer, by its place among the captured ones; valid after the first step.
  [[nodiscard]] const RopeFacts& rope(std::size_t captured) const { return ropes_[captured]; }
  [[nodiscard]] const AttentionFacts& attention(std::size_t captured) const { return attentions_[captured]; }
  /// Whether the residual stream behind the attention block was found in every captured layer.
  [[nodiscard]] bool has_after_attention() const { return has_after_attention_; }

 private:
  enum class Role { none, query, key, value, heads, embedding, layer_output, after_attention, attention_output };
  struct Match {
    Role role = Role::none;
    int layer = 0;
  };
  [[nodiscard]] Match match(const ggml_tensor* node) const;
  void observe(const ggml_tensor* node);
  void copy(ggml_tensor* node, const Match& match);
  void change_heads(ggml_tensor* node, std::size_t captured);
  void copy_rows(const ggml_tensor* node, std::size_t heads, std::size_t width, std::vector<float>& out);
  void check_positions(const ggml_tensor* node);
  void fail(const ggml_tensor* node, std::string_view reason);
  [[nodiscard]] std::size_t index_of(int layer) const {
    return static_cast<std::size_t>(captured_index_[static_cast<std::size_t>(layer)]);
  }
  [[nodiscard]] bool is_captured(int layer) const {
    return layer >= 0 && layer < plan_.num_layers && captured_index_[static_cast<std::size_t>(layer)] >= 0;
  }

  CollectorPlan plan_;
  std::vector<int> captured_index_;    // by model layer: place among the captured ones, -1 = not captured
  std::vector<bool> wanted_residual_;  // [num_layers + 1]
  std::vector<RopeFacts> ropes_;
  std::vector<AttentionFacts> attentions_;
  bool has_after_attention_ = true;
  StepRows step_;
  std::vector<char> strided_;
  std::string failure_;
  AttentionHook hook_;
  std::vector<float> heads_;  // attention output that the hook sees
  std::vector<bool> hooked_;  // by captured layer: the hook has seen the layer in this step
  std::exception_ptr hook_failure_;
};

}  // namespace evictsim::traces::capture

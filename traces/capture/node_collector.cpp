#include "traces/capture/node_collector.h"

#include <fmt/format.h>
#include <ggml-backend.h>
#include <ggml.h>

#include <charconv>
#include <cstring>
#include <exception>
#include <utility>

#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

// Splits "Qcur-12" into "Qcur" and 12; the layer is -1 when the name does not end so. Names such as "Qcur-12 (view)"
// do not match, which is wanted: they are other nodes.
std::pair<std::string_view, int> split_name(std::string_view name) {
  const std::size_t dash = name.rfind('-');
  int layer = -1;
  if (dash == std::string_view::npos) return {name, layer};
  const char* end = name.data() + name.size();
  const auto [rest, failure] = std::from_chars(name.data() + dash + 1, end, layer);
  if (failure != std::errc{} || rest != end) return {name, -1};
  return {name.substr(0, dash), layer};
}

// The layer of "blk.12.attn_output.weight", or -1. A weight that is copied to another device for the product is called
// "CUDA0#blk.12.attn_output.weight#0" there.
int layer_of_output_weight(std::string_view name) {
  if (const auto begin = name.find('#'), end = name.rfind('#'); begin != end) {
    name = name.substr(begin + 1, end - begin - 1);
  }
  constexpr std::string_view prefix = "blk.", suffix = ".attn_output.weight";
  if (!name.starts_with(prefix) || !name.ends_with(suffix)) return -1;
  int layer = -1;
  std::from_chars(name.data() + prefix.size(), name.data() + name.size() - suffix.size(), layer);
  return layer;
}

}  // namespace

NodeCollector::NodeCollector(CollectorPlan plan)
    : plan_(std::move(plan)),
      captured_index_(static_cast<std::size_t>(plan_.num_layers), -1),
      wanted_residual_(static_cast<std::size_t>(plan_.num_layers) + 1, false),
      ropes_(plan_.layers.size()),
      attentions_(plan_.layers.size()) {
  for (std::size_t i = 0; i < plan_.layers.size(); ++i) {
    const auto layer = static_cast<std::size_t>(plan_.layers[i]);
    captured_index_[layer] = static_cast<int>(i);
    wanted_residual_[layer] = plan_.residual;
    wanted_residual_[layer + 1] = plan_.residual;
  }
  wanted_residual_.back() = plan_.residual;
}

NodeCollector::Match NodeCollector::match(const ggml_tensor* node) const {
  if (plan_.attention_output && node->op == GGML_OP_MUL_MAT && node->src[0] != nullptr) {
    // Not every architecture names this node after its layer, but all of them name the weight.
    const int weight_layer = layer_of_output_weight(node->src[0]->name);
    if (is_captured(weight_layer)) return {Role::attention_output, weight_layer};
  }
  const auto [base, layer] = split_name(node->name);
  if (layer < 0) {
    const bool embedding = base == "embd" || base == "inp_embd" || base == "inp_scaled";
    return {embedding && wanted_residual_.front() ? Role::embedding : Role::none, 0};
  }
  if (base == "l_out" && layer < plan_.num_layers && wanted_residual_[static_cast<std::size_t>(layer) + 1]) {
    return {Role::layer_output, layer};
  }
  if (is_captured(layer)) {
    if (base == "Qcur" && node->op == GGML_OP_ROPE) return {Role::query, layer};
    if (base == "Kcur" && node->op == GGML_OP_ROPE) return {Role::key, layer};
    if (base == "Vcur" && (node->op == GGML_OP_RESHAPE || node->op == GGML_OP_VIEW)) return {Role::value, layer};
    if (base == "kqv_out" && hook_) return {Role::heads, layer};
    if (base == "ffn_inp" || base == "sa_out") return {Role::after_attention, layer};
  }
  return {};
}

bool NodeCollector::on_node(ggml_tensor* node, bool ask, void* user) noexcept {
  auto& self = *static_cast<NodeCollector*>(user);
  try {
    const Match match = self.match(node);
    if (ask) {
      self.observe(node);
      return match.role != Role::none;
    }
    const bool failed = !self.failure_.empty() || self.hook_failure_;
    if (match.role != Role::none && !failed) self.copy(node, match);
  } catch (const std::exception& error) {
    self.fail(node, error.what());
  }
  return true;
}

void NodeCollector::begin_step(std::int32_t first_position, std::int32_t count) {
  step_ = {};
  step_.first = first_position;
  step_.count = count;
  step_.layers.resize(plan_.layers.size());
  step_.residual.resize(static_cast<std::size_t>(plan_.num_layers) + 1);
  failure_.clear();
  hook_failure_ = nullptr;
  hooked_.assign(plan_.layers.size(), false);
}

void NodeCollector::observe(const ggml_tensor* node) {
  const auto [base, layer] = split_name(node->name);
  if (base != "kqv_out" || !is_captured(layer)) return;
  AttentionFacts facts = read_attention(node, fmt::format("Qcur-{}", layer));
  if (!facts.unsupported.empty()) fail(node, facts.unsupported);
  attentions_[index_of(layer)] = std::move(facts);
}

void NodeCollector::copy(ggml_tensor* node, const Match& match) {
  const auto hidden = static_cast<std::size_t>(plan_.hidden_size);
  if (match.role == Role::embedding) return copy_rows(node, 1, hidden, step_.residual.front());
  if (match.role == Role::layer_output) {
    return copy_rows(node, 1, hidden, step_.residual[static_cast<std::size_t>(match.layer) + 1]);
  }
  const std::size_t captured = index_of(match.layer);
  LayerRows& rows = step_.layers[captured];
  const auto width = static_cast<std::size_t>(plan_.head_dim);
  switch (match.role) {
    case Role::query: {
      std::string unsupported;
      ropes_[captured] = read_rope(node, unsupported);
      if (!unsupported.empty()) return fail(node, unsupported);
      check_positions(node);
      return copy_rows(node, static_cast<std::size_t>(plan_.num_query_heads), width, rows.query);
    }
    case Role::key:
      check_positions(node);
      return copy_rows(node, static_cast<std::size_t>(plan_.num_kv_heads), width, rows.key);
    case Role::value:
      return copy_rows(node, static_cast<std::size_t>(plan_.num_kv_heads), width, rows.value);
    case Role::heads:
      return change_heads(node, captured);
    case Role::after_attention:
      return copy_rows(node, 1, hidden, rows.after_attention);
    default:
      return copy_rows(node, 1, hidden, rows.attention_output);
  }
}

void NodeCollector::change_heads(ggml_tensor* node, std::size_t captured) {
  const LayerRows& rows = step_.layers[captured];
  if (rows.query.empty() || rows.key.empty() || rows.value.empty()) {
    return fail(node, "it is computed before the layer's queries, keys and values");
  }
  copy_rows(node, 1, static_cast<std::size_t>(plan_.num_query_heads) * static_cast<std::size_t>(plan_.head_dim),
            heads_);
  if (!failure_.empty()) return;
  if (!ggml_is_contiguous(node)) return fail(node, "it cannot be written back: its rows lie apart in memory");
  try {
    hooked_[captured] = true;
    if (hook_(captured, rows, heads_)) ggml_backend_tensor_set(node, heads_.data(), 0, heads_.size() * sizeof(float));
  } catch (...) {
    hook_failure_ = std::current_exception();
  }
}

void NodeCollector::copy_rows(const ggml_tensor* node, std::size_t heads, std::size_t width, std::vector<float>& out) {
  const bool flat = heads == 1;
  const auto count = static_cast<std::int64_t>(step_.count);
  const bool shape_agrees =
      node->ne[0] == static_cast<std::int64_t>(width) &&
      (flat && node->ne[1] == count ? node->ne[2] == 1
                                    : node->ne[1] == static_cast<std::int64_t>(heads) && node->ne[2] == count) &&
      node->ne[3] == 1;
  if (node->type != GGML_TYPE_F32 || !shape_agrees) {
    return fail(node, fmt::format("expected float32 [{}, {}, {}], found {} [{}, {}, {}, {}]", width, heads, count,
                                  ggml_type_name(node->type), node->ne[0], node->ne[1], node->ne[2], node->ne[3]));
  }
  out.resize(static_cast<std::size_t>(count) * heads * width);
  if (ggml_is_contiguous(node)) {
    ggml_backend_tensor_get(node, out.data(), 0, out.size() * sizeof(float));
    return;
  }
  if (node->nb[0] != sizeof(float)) return fail(node, "its components are not adjacent in memory");
  strided_.resize(ggml_nbytes(node));  // a view into a fused product: rows lie apart
  ggml_backend_tensor_get(node, strided_.data(), 0, strided_.size());
  const std::size_t row_stride = flat && node->ne[1] == count && count != 1 ? node->nb[1] : node->nb[2];
  for (std::size_t row = 0; row < static_cast<std::size_t>(count); ++row) {
    for (std::size_t head = 0; head < heads; ++head) {
      const char* from = strided_.data() + row * row_stride + (flat ? 0 : head * node->nb[1]);
      std::memcpy(out.data() + (row * heads + head) * width, from, width * sizeof(float));
    }
  }
}

void NodeCollector::check_positions(const ggml_tensor* node) {
  const ggml_tensor* positions = node->src[1];
  if (positions == nullptr || positions->type != GGML_TYPE_I32 || ggml_nelements(positions) != step_.count) {
    return fail(node, "it has no position for every row");
  }
  std::vector<std::int32_t> found(static_cast<std::size_t>(step_.count));
  ggml_backend_tensor_get(positions, found.data(), 0, found.size() * sizeof(std::int32_t));
  for (std::int32_t row = 0; row < step_.count; ++row) {
    if (found[static_cast<std::size_t>(row)] != step_.first + row)
      return fail(node, "the engine reordered the rows of a step");
  }
}

void NodeCollector::fail(const ggml_tensor* node, std::string_view reason) {
  if (failure_.empty()) failure_ = fmt::format("graph node '{}': {}", node->name, reason);
}

StepRows NodeCollector::finish_step() {
  if (hook_failure_) std::rethrow_exception(std::exchange(hook_failure_, nullptr));
  const auto missing = [&](const std::string& what) {
    if (failure_.empty()) failure_ = fmt::format("the graph has no node {}", what);
  };
  for (std::size_t i = 0; i < plan_.layers.size(); ++i) {
    const LayerRows& rows = step_.layers[i];
    const int layer = plan_.layers[i];
    if (rows.query.empty()) missing(fmt::format("'Qcur-{}' with RoPE", layer));
    if (rows.key.empty()) missing(fmt::format("'Kcur-{}' with RoPE", layer));
    if (rows.value.empty()) missing(fmt::format("'Vcur-{}'", layer));
    if (hook_ && !hooked_[i]) missing(fmt::format("'kqv_out-{}', which attention output is written to", layer));
    if (attentions_[i].scale == 0) missing(fmt::format("of softmax attention in layer {}", layer));
    if (plan_.attention_output && rows.attention_output.empty())
      missing(fmt::format("for 'blk.{}.attn_output.weight'", layer));
    if (rows.after_attention.empty()) has_after_attention_ = false;
  }
  for (std::size_t i = 0; i < wanted_residual_.size(); ++i) {
    if (wanted_residual_[i] && step_.residual[i].empty())
      missing(i == 0 ? std::string("'embd'") : fmt::format("'l_out-{}'", i - 1));
  }
  if (!failure_.empty()) {
    throw Error(ErrorCode::unsupported, "this model's attention cannot be captured: " + failure_);
  }
  return std::move(step_);
}

}  // namespace evictsim::traces::capture

#include "models/llm.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <string_view>
#include <utility>

#include "traces/error.h"

namespace evictsim::models {
namespace {

struct NamedType {
  ElementType type;
  const char* name;
  double bytes;
};
constexpr std::array<NamedType, 9> types = {{
    {ElementType::f32, "f32", 4},
    {ElementType::bf16, "bf16", 2},
    {ElementType::f16, "f16", 2},
    {ElementType::fp8, "fp8", 1},
    {ElementType::int8, "int8", 1},
    {ElementType::nvfp4, "nvfp4", 0.5 + 1.0 / 16},
    {ElementType::mxfp4, "mxfp4", 0.5 + 1.0 / 32},
    {ElementType::int4, "int4", 0.5 + 2.0 / 128 + 0.5 / 128},
    {ElementType::int4_32, "int4_32", 0.5 + 2.0 / 32},
}};

const NamedType& named(ElementType type) {
  return *std::find_if(types.begin(), types.end(), [&](const NamedType& one) { return one.type == type; });
}

std::int64_t attention_parameters(std::int64_t hidden, const LayerAttention& a) {
  const std::int64_t query_heads = a.query_heads, kv_heads = a.kv_heads;
  const std::int64_t key_width = a.head_dim, value_width = a.value_head_dim;
  switch (a.kind) {
    case AttentionKind::full:
    case AttentionKind::sliding: {
      const std::int64_t queries = query_heads * key_width * (a.output_gate ? 2 : 1);
      const std::int64_t keys_values = kv_heads * (key_width + value_width);
      std::int64_t sum = hidden * (queries + keys_values) + query_heads * value_width * hidden;
      if (a.query_key_value_bias) sum += queries + keys_values;
      if (a.output_bias) sum += hidden;
      if (a.sinks) sum += query_heads;
      return sum;
    }
    case AttentionKind::latent: {
      const std::int64_t query_width = query_heads * (key_width + a.rope_dim), rank = a.latent_rank;
      const std::int64_t queries = a.query_rank > 0 ? a.query_rank * (hidden + query_width) : hidden * query_width;
      const std::int64_t keys_values = hidden * (rank + a.rope_dim) + rank * query_heads * (key_width + value_width);
      const std::int64_t index_width = std::int64_t{a.index_heads} * a.index_dim;
      const std::int64_t indexer =
          a.index_heads > 0 ? a.query_rank * index_width + hidden * (a.index_dim + a.index_heads) : 0;
      return queries + keys_values + query_heads * value_width * hidden + indexer;
    }
    case AttentionKind::linear: {
      const std::int64_t keys = query_heads * key_width, values = kv_heads * value_width;
      // Queries, keys, values and output gates; two gates per value head; convolution; decay and its bias; output.
      return hidden * (2 * keys + 2 * values) + hidden * 2 * kv_heads + a.convolution_width * (2 * keys + values) +
             2 * kv_heads + values * hidden;
    }
  }
  return 0;
}

std::int64_t attention_norms(const LayerAttention& a) {
  switch (a.kind) {
    case AttentionKind::latent:
      return a.query_rank + a.latent_rank + (a.index_heads > 0 ? 2 * a.index_dim : 0);
    case AttentionKind::linear:
      return a.value_head_dim;
    default:
      return a.query_key_norm;
  }
}

/// Of one feed-forward network of an inner width.
std::int64_t network_parameters(std::int64_t hidden, std::int64_t inner, const LayerFeedForward& f) {
  const std::int64_t inward = f.gated ? 2 : 1;
  return (inward + 1) * hidden * inner + (f.bias ? inward * inner + hidden : 0);
}

/// With `experts` routed experts counted.
ParameterCount layer_parameters(const Llm& llm, const LlmLayer& layer, std::int64_t experts) {
  const LayerFeedForward& f = layer.feed_forward;
  ParameterCount count;
  count.attention = attention_parameters(llm.hidden_size, layer.attention);
  count.norms = llm.norms_per_layer * llm.hidden_size * (llm.norm_bias ? 2 : 1) + attention_norms(layer.attention);
  if (f.experts == 0) {
    count.dense = network_parameters(llm.hidden_size, f.intermediate, f);
    return count;
  }
  count.routed_experts = experts * network_parameters(llm.hidden_size, f.expert_intermediate, f);
  if (f.shared_intermediate > 0) {
    count.shared_experts = network_parameters(llm.hidden_size, f.shared_intermediate, f);
    if (f.shared_gate) count.shared_experts += llm.hidden_size;
  }
  count.router = (llm.hidden_size + (f.router_bias ? 1 : 0)) * f.experts;
  return count;
}

double product_parameters(const ParameterCount& count) {
  return static_cast<double>(count.attention + count.dense + count.routed_experts + count.shared_experts +
                             count.router);
}

template <typename Entries>
double mean_entries(const Llm& llm, std::int64_t context, Entries entries) {
  double weighted = 0, elements = 0;
  for (const LlmLayer& layer : llm.layers) {
    const auto width = static_cast<double>(kv_elements_per_token(layer.attention));
    weighted += width * static_cast<double>(entries(layer.attention, context));
    elements += width;
  }
  return elements > 0 ? weighted / elements : 0;
}

}  // namespace

double bytes_of(ElementType type) { return named(type).bytes; }
const char* to_string(ElementType type) { return named(type).name; }

ElementType element_type(const std::string& name, const std::string& parameter) {
  const std::string_view asked = name == "fp4" ? "nvfp4" : std::string_view(name);
  std::vector<std::string_view> names;
  for (const NamedType& one : types) {
    if (asked == one.name) return one.type;
    names.emplace_back(one.name);
  }
  throw Error(ErrorCode::unknown_name,
              fmt::format("there is no such element type; known are {}", fmt::join(names, ", ")),
              {.file = {}, .dataset = {}, .parameter = parameter, .value = name});
}

const char* to_string(AttentionKind kind) {
  switch (kind) {
    case AttentionKind::full:
      return "full";
    case AttentionKind::sliding:
      return "sliding";
    case AttentionKind::latent:
      return "latent";
    case AttentionKind::linear:
      return "linear";
  }
  return "";
}

bool has_experts(const Llm& llm) {
  return std::any_of(llm.layers.begin(), llm.layers.end(),
                     [](const LlmLayer& layer) { return layer.feed_forward.experts > 0; });
}

ParameterCount parameters(const Llm& llm, const LlmLayer& layer) {
  return layer_parameters(llm, layer, layer.feed_forward.experts);
}

ParameterCount parameters(const Llm& llm) {
  ParameterCount sum;
  for (const LlmLayer& layer : llm.layers) sum += parameters(llm, layer);
  sum.norms += llm.hidden_size * (llm.norm_bias ? 2 : 1);
  sum.embedding = (llm.vocabulary + llm.learned_positions) * llm.hidden_size;
  sum.output_head = llm.tied_embeddings ? 0 : llm.vocabulary * llm.hidden_size;
  return sum;
}

ParameterCount active_parameters(const Llm& llm) {
  ParameterCount sum;
  for (const LlmLayer& layer : llm.layers) sum += layer_parameters(llm, layer, layer.feed_forward.experts_per_token);
  sum.norms += llm.hidden_size * (llm.norm_bias ? 2 : 1);
  sum.output_head = llm.vocabulary * llm.hidden_size;
  return sum;
}

double expected_experts(const LayerFeedForward& feed_forward, double tokens) {
  if (feed_forward.experts == 0 || tokens <= 0) return 0;
  const double experts = feed_forward.experts;
  const double missed = 1 - feed_forward.experts_per_token / experts;
  return experts * (1 - std::pow(missed, tokens));
}

double projection_flops_per_token(const Llm& llm, const LlmLayer& layer) {
  return 2 * product_parameters(layer_parameters(llm, layer, layer.feed_forward.experts_per_token));
}

double projection_flops_per_token(const Llm& llm) { return 2 * product_parameters(active_parameters(llm)); }

double output_head_flops(const Llm& llm) {
  return 2 * static_cast<double>(llm.vocabulary) * static_cast<double>(llm.hidden_size);
}

double attention_flops_per_pair(const LayerAttention& a, bool absorbed) {
  switch (a.kind) {
    case AttentionKind::full:
    case AttentionKind::sliding:
      return 2.0 * a.query_heads * (a.head_dim + a.value_head_dim);
    case AttentionKind::latent:
      return absorbed ? 2.0 * a.query_heads * (2 * a.latent_rank + a.rope_dim)
                      : 2.0 * a.query_heads * (a.head_dim + a.rope_dim + a.value_head_dim);
    case AttentionKind::linear:
      break;
  }
  return 0;
}

double linear_state_flops_per_token(const LayerAttention& a) {
  if (a.kind != AttentionKind::linear) return 0;
  // Per number of the state: decay 1, product with the key 2, outer product 2, product with the query 2.
  return 7.0 * a.kv_heads * a.head_dim * a.value_head_dim;
}

std::int64_t kv_elements_per_token(const LayerAttention& a) {
  switch (a.kind) {
    case AttentionKind::full:
    case AttentionKind::sliding:
      return std::int64_t{a.kv_heads} * (a.head_dim + a.value_head_dim);
    case AttentionKind::latent:
      return std::int64_t{a.latent_rank} + a.rope_dim + (a.index_heads > 0 ? a.index_dim : 0);
    case AttentionKind::linear:
      break;
  }
  return 0;
}

std::int64_t entries_held(const LayerAttention& a, std::int64_t context) {
  if (a.kind == AttentionKind::linear) return 0;
  return a.kind == AttentionKind::sliding ? std::min(context, a.window) : context;
}

double entries_read(const LayerAttention& a, std::int64_t context) {
  const auto held = static_cast<double>(entries_held(a, context));
  if (a.kind != AttentionKind::latent || a.index_heads == 0) return held;
  const double index_share = static_cast<double>(a.index_dim) / static_cast<double>(kv_elements_per_token(a));
  return index_share * held + (1 - index_share) * static_cast<double>(std::min(context, a.index_top_k));
}

double mean_entries_held(const Llm& llm, std::int64_t context) { return mean_entries(llm, context, entries_held); }
double mean_entries_read(const Llm& llm, std::int64_t context) { return mean_entries(llm, context, entries_read); }

std::vector<std::int64_t> context_bends(const Llm& llm) {
  std::set<std::int64_t> bends;
  for (const LlmLayer& layer : llm.layers) {
    const LayerAttention& a = layer.attention;
    if (a.kind == AttentionKind::sliding) bends.insert(a.window);
    if (a.kind == AttentionKind::latent && a.index_heads > 0) bends.insert(a.index_top_k);
  }
  return {bends.begin(), bends.end()};
}

std::int64_t state_bytes_per_sequence(const LayerAttention& a) {
  if (a.kind != AttentionKind::linear) return 0;
  const std::int64_t keys = std::int64_t{a.query_heads} * a.head_dim;
  const std::int64_t values = std::int64_t{a.kv_heads} * a.value_head_dim;
  return 4 * values * a.head_dim + 2 * (2 * keys + values) * (a.convolution_width - 1);
}

std::int64_t state_bytes_per_sequence(const Llm& llm) {
  std::int64_t sum = 0;
  for (const LlmLayer& layer : llm.layers) sum += state_bytes_per_sequence(layer.attention);
  return sum;
}

}  // namespace evictsim::models

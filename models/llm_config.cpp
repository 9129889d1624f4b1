#include "models/llm_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "models/json_fields.h"
#include "models/llm_quantisation.h"
#include "traces/error.h"

namespace evictsim::models {
namespace {

using Json = nlohmann::json;
using Range = JsonFields::Range;

/// What the architectures have in common, and where they differ.
class Config {
 public:
  Config(const Json& object, const std::string& file, const std::string& path)
      : fields_(object, file, path), object_(object) {}

  JsonFields& fields() { return fields_; }
  int count_or(const std::string& key, int otherwise) { return fields_.has(key) ? fields_.count(key) : otherwise; }
  std::int64_t whole_or(const std::string& key, std::int64_t otherwise) {
    return fields_.optional_whole(key, Range::not_negative).value_or(otherwise);
  }
  bool flag_or(const std::string& key, bool otherwise) { return fields_.has(key) ? fields_.flag(key) : otherwise; }
  /// Numbers of layers in a list; empty if there is none.
  std::set<std::int64_t> layer_list(const std::string& key) {
    std::set<std::int64_t> layers;
    if (!fields_.has(key)) return layers;
    if (!object_.at(key).is_array()) fields_.refuse(key, "must be a list of layer numbers");
    for (const Json& item : object_.at(key)) {
      if (!item.is_number_integer()) fields_.refuse(key, "must be a list of layer numbers");
      layers.insert(item.get<std::int64_t>());
    }
    return layers;
  }

 private:
  JsonFields fields_;
  const Json& object_;
};

std::size_t layer_count(Config& config) {
  const std::int64_t layers = config.fields().whole("num_hidden_layers", Range::positive);
  if (layers > 1 << 11) config.fields().refuse("num_hidden_layers", "must be at most 2048");
  return static_cast<std::size_t>(layers);
}

/// Keys and values per group of query heads.
LayerAttention heads(Config& config) {
  JsonFields& fields = config.fields();
  LayerAttention a;
  a.query_heads = fields.count("num_attention_heads");
  a.kv_heads = config.count_or("num_key_value_heads", a.query_heads);
  if (fields.has("head_dim")) {
    a.head_dim = fields.count("head_dim");
  } else {
    const std::int64_t hidden = fields.whole("hidden_size", Range::positive);
    if (hidden % a.query_heads != 0) fields.refuse("num_attention_heads", "must divide hidden_size without head_dim");
    a.head_dim = static_cast<int>(hidden / a.query_heads);
  }
  a.value_head_dim = a.head_dim;
  return a;
}

LayerAttention with_norm(LayerAttention a) {
  a.query_key_norm = 2 * std::int64_t{a.head_dim};
  return a;
}

LayerAttention latent(Config& config) {
  JsonFields& fields = config.fields();
  LayerAttention a;
  a.kind = AttentionKind::latent;
  a.query_heads = a.kv_heads = fields.count("num_attention_heads");
  a.head_dim = fields.count("qk_nope_head_dim");
  a.rope_dim = fields.count("qk_rope_head_dim");
  a.value_head_dim = fields.count("v_head_dim");
  a.latent_rank = fields.count("kv_lora_rank");
  a.query_rank = config.count_or("q_lora_rank", 0);
  if (fields.has("index_topk")) {
    a.index_top_k = fields.whole("index_topk", Range::positive);
    a.index_heads = fields.count("index_n_heads");
    a.index_dim = fields.count("index_head_dim");
  }
  return a;
}

LayerAttention linear(Config& config) {
  JsonFields& fields = config.fields();
  LayerAttention a;
  a.kind = AttentionKind::linear;
  a.query_heads = fields.count("linear_num_key_heads");
  a.kv_heads = fields.count("linear_num_value_heads");
  a.head_dim = fields.count("linear_key_head_dim");
  a.value_head_dim = fields.count("linear_value_head_dim");
  a.convolution_width = fields.count("linear_conv_kernel_dim");
  return a;
}

LayerFeedForward dense(Config& config, const std::string& key = "intermediate_size") {
  LayerFeedForward f;
  f.intermediate = config.fields().whole(key, Range::positive);
  return f;
}

LayerFeedForward experts(Config& config, const std::string& count_key, const std::string& width_key) {
  LayerFeedForward f;
  f.experts = config.fields().count(count_key);
  f.experts_per_token = config.fields().count("num_experts_per_tok");
  f.expert_intermediate = config.fields().whole(width_key, Range::positive);
  return f;
}

/// Every layer the same.
void repeat(Config& config, Llm& llm, const LayerAttention& attention, const LayerFeedForward& feed_forward) {
  llm.layers.assign(layer_count(config), {attention, feed_forward});
}

/// Turns layers into sliding ones as `layer_types` says or, without it, where `slides(index)`.
template <typename Slides>
void slide(Config& config, Llm& llm, std::int64_t window, Slides slides) {
  JsonFields& fields = config.fields();
  std::vector<std::string> types;
  if (fields.has("layer_types")) {
    types = fields.texts("layer_types");
    if (types.size() != llm.layers.size()) fields.refuse("layer_types", "must name each of num_hidden_layers");
  }
  for (std::size_t i = 0; i < llm.layers.size(); ++i) {
    if (!types.empty() && types[i] != "sliding_attention" && types[i] != "full_attention") {
      fields.refuse("layer_types", fmt::format("names \"{}\"; known are full_attention, sliding_attention", types[i]));
    }
    if (types.empty() ? !slides(i) : types[i] != "sliding_attention") continue;
    llm.layers[i].attention.kind = AttentionKind::sliding;
    llm.layers[i].attention.window = window;
  }
}

std::int64_t window_of(Config& config) { return config.fields().whole("sliding_window", Range::positive); }

void build_llama(Config& config, Llm& llm) {
  LayerAttention a = heads(config);
  a.query_key_value_bias = a.output_bias = config.fields().flag("attention_bias");
  LayerFeedForward f = dense(config);
  f.bias = config.fields().flag("mlp_bias");
  repeat(config, llm, a, f);
}

void build_mistral(Config& config, Llm& llm) {
  repeat(config, llm, heads(config), dense(config));
  if (config.fields().has("sliding_window")) slide(config, llm, window_of(config), [](std::size_t) { return true; });
}

void build_mixtral(Config& config, Llm& llm) {
  repeat(config, llm, heads(config), experts(config, "num_local_experts", "intermediate_size"));
  if (config.fields().has("sliding_window")) slide(config, llm, window_of(config), [](std::size_t) { return true; });
}

/// Qwen2 and Qwen3 slide from `max_window_layers` on, if at all.
void slide_late(Config& config, Llm& llm) {
  if (!config.fields().flag("use_sliding_window")) return;
  const auto first = static_cast<std::size_t>(config.whole_or("max_window_layers", 28));
  slide(config, llm, window_of(config), [&](std::size_t layer) { return layer >= first; });
}

void build_qwen2(Config& config, Llm& llm) {
  LayerAttention a = heads(config);
  a.query_key_value_bias = true;
  repeat(config, llm, a, dense(config));
  slide_late(config, llm);
}

void build_qwen3(Config& config, Llm& llm) {
  LayerAttention a = with_norm(heads(config));
  a.query_key_value_bias = a.output_bias = config.fields().flag("attention_bias");
  repeat(config, llm, a, dense(config));
  slide_late(config, llm);
}

/// Dense layers among those with experts, as the Qwen models say it.
void mix_in_dense(Config& config, Llm& llm) {
  const std::set<std::int64_t> only_dense = config.layer_list("mlp_only_layers");
  const std::int64_t step = std::max<std::int64_t>(1, config.whole_or("decoder_sparse_step", 1));
  for (std::size_t i = 0; i < llm.layers.size(); ++i) {
    const auto layer = static_cast<std::int64_t>(i);
    if (only_dense.contains(layer) || (layer + 1) % step != 0) llm.layers[i].feed_forward = dense(config);
  }
}

void build_qwen3_moe(Config& config, Llm& llm) {
  LayerAttention a = with_norm(heads(config));
  a.query_key_value_bias = a.output_bias = config.fields().flag("attention_bias");
  repeat(config, llm, a, experts(config, "num_experts", "moe_intermediate_size"));
  mix_in_dense(config, llm);
  slide_late(config, llm);
}

LayerFeedForward with_gated_share(Config& config, LayerFeedForward f) {
  f.shared_intermediate = config.whole_or("shared_expert_intermediate_size", 0);
  f.shared_gate = f.shared_intermediate > 0;
  return f;
}

void build_qwen2_moe(Config& config, Llm& llm) {
  LayerAttention a = heads(config);
  a.query_key_value_bias = true;
  repeat(config, llm, a, with_gated_share(config, experts(config, "num_experts", "moe_intermediate_size")));
  mix_in_dense(config, llm);
}

/// Qwen3-Next and Qwen3.5: full attention with an output gate between linear layers.
void build_hybrid(Config& config, Llm& llm, const LayerFeedForward& feed_forward) {
  JsonFields& fields = config.fields();
  LayerAttention full = with_norm(heads(config));
  full.output_gate = config.flag_or("attn_output_gate", true);
  full.query_key_value_bias = full.output_bias = fields.flag("attention_bias");
  repeat(config, llm, full, feed_forward);
  const LayerAttention other = linear(config);
  std::vector<std::string> types;
  if (fields.has("layer_types")) {
    types = fields.texts("layer_types");
    if (types.size() != llm.layers.size()) fields.refuse("layer_types", "must name each of num_hidden_layers");
  }
  const auto interval =
      static_cast<std::size_t>(std::max<std::int64_t>(1, config.whole_or("full_attention_interval", 4)));
  for (std::size_t i = 0; i < llm.layers.size(); ++i) {
    if (!types.empty() && types[i] != "linear_attention" && types[i] != "full_attention") {
      fields.refuse("layer_types", fmt::format("names \"{}\"; known are full_attention, linear_attention", types[i]));
    }
    if (types.empty() ? (i + 1) % interval != 0 : types[i] == "linear_attention") llm.layers[i].attention = other;
  }
}

void build_hybrid_moe(Config& config, Llm& llm) {
  build_hybrid(config, llm, with_gated_share(config, experts(config, "num_experts", "moe_intermediate_size")));
  mix_in_dense(config, llm);
}

void build_hybrid_dense(Config& config, Llm& llm) { build_hybrid(config, llm, dense(config)); }

void build_gemma(Config& config, Llm& llm) { repeat(config, llm, heads(config), dense(config)); }

void build_gemma2(Config& config, Llm& llm) {
  llm.norms_per_layer = 4;
  repeat(config, llm, heads(config), dense(config));
  slide(config, llm, window_of(config), [](std::size_t layer) { return layer % 2 == 0; });
}

void build_gemma3(Config& config, Llm& llm) {
  llm.norms_per_layer = 4;
  repeat(config, llm, with_norm(heads(config)), dense(config));
  const auto pattern =
      static_cast<std::size_t>(std::max<std::int64_t>(1, config.whole_or("sliding_window_pattern", 6)));
  slide(config, llm, window_of(config), [&](std::size_t layer) { return (layer + 1) % pattern != 0; });
}

void build_gpt_oss(Config& config, Llm& llm) {
  LayerAttention a = heads(config);
  a.query_key_value_bias = a.output_bias = config.flag_or("attention_bias", true);
  a.sinks = true;
  LayerFeedForward f = experts(config, "num_local_experts", "intermediate_size");
  f.bias = f.router_bias = true;
  repeat(config, llm, a, f);
  slide(config, llm, window_of(config), [](std::size_t layer) { return layer % 2 == 0; });
}

void build_minimax_m2(Config& config, Llm& llm) {
  LayerAttention a = heads(config);
  if (config.flag_or("use_qk_norm", true)) {
    a.query_key_norm = (std::int64_t{a.query_heads} + a.kv_heads) * a.head_dim;
  }
  LayerFeedForward f = experts(config, "num_local_experts", "intermediate_size");
  f.router_bias = config.flag_or("use_routing_bias", true);
  repeat(config, llm, a, f);
}

/// Dense layers first, then experts with shared ones, as DeepSeek writes it.
void build_experts_after_dense(Config& config, Llm& llm, const LayerAttention& attention, bool router_bias) {
  JsonFields& fields = config.fields();
  LayerFeedForward f = experts(config, "n_routed_experts", "moe_intermediate_size");
  f.shared_intermediate = config.whole_or("n_shared_experts", 0) * f.expert_intermediate;
  f.router_bias = router_bias;
  repeat(config, llm, attention, f);
  const std::int64_t first = config.whole_or("first_k_dense_replace", 0);
  const std::int64_t frequency = config.whole_or("moe_layer_freq", 1);
  if (frequency < 1) fields.refuse("moe_layer_freq", "must be above 0");
  for (std::size_t i = 0; i < llm.layers.size(); ++i) {
    const auto layer = static_cast<std::int64_t>(i);
    if (layer < first || layer % frequency != 0) llm.layers[i].feed_forward = dense(config);
  }
}

void build_deepseek_v2(Config& config, Llm& llm) { build_experts_after_dense(config, llm, latent(config), false); }
void build_deepseek_v3(Config& config, Llm& llm) { build_experts_after_dense(config, llm, latent(config), true); }

void build_glm4_moe(Config& config, Llm& llm) {
  LayerAttention a = heads(config);
  a.query_key_value_bias = config.fields().flag("attention_bias");
  if (config.fields().flag("use_qk_norm")) a = with_norm(a);
  build_experts_after_dense(config, llm, a, true);
}

void build_opt(Config& config, Llm& llm) {
  JsonFields& fields = config.fields();
  if (fields.has("word_embed_proj_dim") && fields.count("word_embed_proj_dim") != llm.hidden_size) {
    fields.refuse("word_embed_proj_dim", "is supported only where it is hidden_size");
  }
  llm.learned_positions = llm.longest_context + 2;  // the first two rows are for padding
  llm.norm_bias = true;
  LayerAttention a = heads(config);
  a.query_key_value_bias = a.output_bias = config.flag_or("enable_bias", true);
  LayerFeedForward f = dense(config, "ffn_dim");
  f.gated = false;
  f.bias = a.output_bias;
  repeat(config, llm, a, f);
}

struct Architecture {
  const char* model_type;
  bool tied_embeddings;  ///< where the config does not say
  void (*build)(Config&, Llm&);
};

constexpr std::array<Architecture, 29> architectures = {{
    {"deepseek_v2", false, build_deepseek_v2},
    {"deepseek_v3", false, build_deepseek_v3},
    {"deepseek_v32", false, build_deepseek_v3},
    {"gemma", true, build_gemma},
    {"gemma2", true, build_gemma2},
    {"gemma3", true, build_gemma3},
    {"gemma3_text", true, build_gemma3},
    {"glm4_moe", false, build_glm4_moe},
    {"glm4_moe_lite", false, build_deepseek_v3},
    {"glm_moe_dsa", false, build_deepseek_v3},
    {"gpt_oss", false, build_gpt_oss},
    {"kimi_k2", false, build_deepseek_v3},
    {"kimi_k25", false, build_deepseek_v3},
    {"llama", false, build_llama},
    {"minimax_m2", false, build_minimax_m2},
    {"mistral", false, build_mistral},
    {"mistral3", false, build_mistral},
    {"mixtral", false, build_mixtral},
    {"opt", true, build_opt},
    {"qwen2", false, build_qwen2},
    {"qwen2_moe", false, build_qwen2_moe},
    {"qwen3", false, build_qwen3},
    {"qwen3_5", false, build_hybrid_dense},
    {"qwen3_5_moe", false, build_hybrid_moe},
    {"qwen3_5_moe_text", false, build_hybrid_moe},
    {"qwen3_5_text", false, build_hybrid_dense},
    {"qwen3_moe", false, build_qwen3_moe},
    {"qwen3_next", false, build_hybrid_moe},
    {"smollm3", true, build_llama},
}};

/// Fields of gemma3_text that its configs leave out because they are the library's defaults.
void fill_in_gemma3(Json& object) {
  const Json defaults = {{"num_attention_heads", 8}, {"num_key_value_heads", 4},          {"head_dim", 256},
                         {"vocab_size", 262208},     {"max_position_embeddings", 131072}, {"sliding_window", 4096}};
  for (const auto& [key, value] : defaults.items()) {
    if (!object.contains(key)) object[key] = value;
  }
}

Json without_nulls(const Json& object) {
  Json kept = Json::object();
  for (const auto& [key, value] : object.items()) {
    if (!value.is_null()) kept[key] = value;
  }
  return kept;
}

std::string name_of(const std::filesystem::path& file) {
  if (file.stem() != "config") return file.stem().string();
  std::error_code failure;
  const std::filesystem::path folder = std::filesystem::absolute(file, failure).parent_path().filename();
  return failure || folder.empty() ? "config" : folder.string();
}

}  // namespace

std::vector<std::string> supported_model_types() {
  std::vector<std::string> names;
  for (const Architecture& one : architectures) names.emplace_back(one.model_type);
  return names;
}

Llm read_llm_config(const std::filesystem::path& file) {
  const Json root = parse_json_file(file);
  JsonFields outermost(root, file.string());
  Json object = without_nulls(root);
  std::string path;
  // The language model of a multimodal one has a section of its own, with some fields left outside.
  if (object.contains("text_config") && object.at("text_config").is_object()) {
    path = "text_config";
    object = without_nulls(root.at("text_config"));
    for (const char* key : {"model_type", "tie_word_embeddings", "quantization_config"}) {
      if (!object.contains(key) && root.contains(key) && !root.at(key).is_null()) object[key] = root.at(key);
    }
  }
  const std::string model_type = JsonFields(object, file.string(), path).text("model_type");
  const auto found = std::find_if(architectures.begin(), architectures.end(),
                                  [&](const Architecture& one) { return model_type == one.model_type; });
  if (found == architectures.end()) {
    throw Error(ErrorCode::unsupported,
                fmt::format("this architecture is not understood; supported are {}. Any other can be described by hand",
                            fmt::join(supported_model_types(), ", ")),
                {.file = file.string(), .dataset = {}, .parameter = "model_type", .value = model_type});
  }
  if (model_type.starts_with("gemma3")) fill_in_gemma3(object);
  Config config(object, file.string(), path);
  JsonFields& fields = config.fields();
  Llm llm;
  llm.name = name_of(file);
  llm.sources = {file.string()};
  llm.hidden_size = fields.whole("hidden_size", Range::positive);
  llm.vocabulary = fields.whole("vocab_size", Range::positive);
  llm.longest_context = config.whole_or("max_position_embeddings", 0);
  llm.tied_embeddings = config.flag_or("tie_word_embeddings", found->tied_embeddings);
  if (fields.has("quantization_config")) {
    llm.weights = weight_types_of(object.at("quantization_config"), file.string());
  }
  found->build(config, llm);
  check_llm(llm, file.string());
  return llm;
}

}  // namespace evictsim::models

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "models/data_files.h"
#include "models/json_fields.h"
#include "models/llm.h"
#include "models/llm_config.h"
#include "traces/error.h"

namespace evictsim::models {
namespace {

using Json = nlohmann::json;
using Range = JsonFields::Range;

constexpr const char* format_name = "evictsim-llm";
constexpr int format_version = 1;

/// Largest sizes of each part; their products stay below 2^63.
constexpr std::int64_t most_layers = 1 << 11, most_width = 1 << 18, most_inner = 1 << 22, most_experts = 1 << 14,
                       most_heads = 1 << 14, most_vocabulary = 1 << 26;

int optional_count(JsonFields& fields, const std::string& key) { return fields.has(key) ? fields.count(key) : 0; }

AttentionKind read_kind(JsonFields& fields) {
  const std::string name = fields.text("kind");
  for (const auto kind : {AttentionKind::full, AttentionKind::sliding, AttentionKind::latent, AttentionKind::linear}) {
    if (name == to_string(kind)) return kind;
  }
  fields.refuse("kind", "must be full, sliding, latent or linear");
}

LayerAttention read_attention(JsonFields fields) {
  LayerAttention a;
  a.kind = read_kind(fields);
  a.query_heads = fields.count("query_heads");
  a.head_dim = fields.count("head_dim");
  a.value_head_dim = fields.has("value_head_dim") ? fields.count("value_head_dim") : a.head_dim;
  const bool keeps_heads = a.kind == AttentionKind::full || a.kind == AttentionKind::sliding;
  if (a.kind == AttentionKind::latent) {
    a.kv_heads = a.query_heads;
    a.latent_rank = fields.count("latent_rank");
    a.rope_dim = fields.count("rope_dim");
    a.query_rank = optional_count(fields, "query_rank");
    a.index_heads = optional_count(fields, "index_heads");
    if (a.index_heads > 0) {
      a.index_dim = fields.count("index_dim");
      a.index_top_k = fields.whole("index_top_k", Range::positive);
    }
  } else {
    a.kv_heads = fields.count("kv_heads");
  }
  if (a.kind == AttentionKind::sliding) a.window = fields.whole("window", Range::positive);
  if (a.kind == AttentionKind::linear) a.convolution_width = fields.count("convolution_width");
  if (keeps_heads) {
    a.output_gate = fields.flag("output_gate");
    a.query_key_value_bias = fields.flag("query_key_value_bias");
    a.output_bias = fields.flag("output_bias");
    a.query_key_norm = fields.optional_whole("query_key_norm", Range::not_negative).value_or(0);
    a.sinks = fields.flag("sinks");
  }
  fields.finish();
  return a;
}

LayerFeedForward read_feed_forward(JsonFields fields) {
  LayerFeedForward f;
  f.experts = optional_count(fields, "experts");
  if (f.experts == 0) {
    f.intermediate = fields.whole("intermediate", Range::positive);
  } else {
    f.experts_per_token = fields.count("experts_per_token");
    f.expert_intermediate = fields.whole("expert_intermediate", Range::positive);
    f.shared_intermediate = fields.optional_whole("shared_intermediate", Range::not_negative).value_or(0);
    f.shared_gate = fields.flag("shared_gate");
    f.router_bias = fields.flag("router_bias");
  }
  f.gated = !fields.flag("two_matrices");
  f.bias = fields.flag("bias");
  fields.finish();
  return f;
}

WeightTypes read_weights(JsonFields fields) {
  WeightTypes weights;
  const std::array<std::pair<const char*, ElementType*>, 3> parts = {
      {{"attention", &weights.attention}, {"feed_forward", &weights.feed_forward}, {"experts", &weights.experts}}};
  for (const auto& [key, type] : parts) {
    if (!fields.has(key)) continue;
    try {
      *type = element_type(fields.text(key), key);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unknown_name) throw;
      fields.refuse(key, error.message());
    }
  }
  fields.finish();
  return weights;
}

/// Parts of layers by the names that a file gives them.
template <typename Part>
std::map<std::string, Part> read_parts(JsonFields fields, Part (*read)(JsonFields)) {
  std::map<std::string, Part> parts;
  for (const std::string& name : fields.keys()) parts.emplace(name, read(fields.object(name)));
  return parts;
}

/// The part that stands at `index` of a list of names, which repeats.
template <typename Part>
const Part& part_at(JsonFields& group, const std::string& key, const std::vector<std::string>& names,
                    std::int64_t index, const std::map<std::string, Part>& parts, std::set<std::string>& used) {
  const std::string& name = names[static_cast<std::size_t>(index) % names.size()];
  const auto found = parts.find(name);
  if (found == parts.end()) group.refuse(key, fmt::format("names \"{}\", which \"{}\" does not describe", name, key));
  used.insert(key + "." + name);
  return found->second;
}

std::vector<LlmLayer> read_layers(JsonFields& fields, const std::string& file) {
  const auto attentions = read_parts<LayerAttention>(fields.object("attention"), read_attention);
  const auto feed_forwards = read_parts<LayerFeedForward>(fields.object("feed_forward"), read_feed_forward);
  std::vector<LlmLayer> layers;
  std::set<std::string> used;
  for (JsonFields& group : fields.objects("layers")) {
    const std::int64_t count = group.whole("count", Range::positive);
    if (count > most_layers) group.refuse("count", fmt::format("must be at most {}", most_layers));
    const std::vector<std::string> attention = group.texts("attention"), feed_forward = group.texts("feed_forward");
    if (attention.empty()) group.refuse("attention", "must name at least one part");
    if (feed_forward.empty()) group.refuse("feed_forward", "must name at least one part");
    for (std::int64_t i = 0; i < count; ++i) {
      layers.push_back({part_at(group, "attention", attention, i, attentions, used),
                        part_at(group, "feed_forward", feed_forward, i, feed_forwards, used)});
    }
    group.finish();
  }
  if (layers.empty()) fields.refuse("layers", "must have at least one group");
  const auto all_used = [&](const std::string& key, const auto& parts) {
    for (const auto& [name, part] : parts) {
      if (used.contains(key + "." + name)) continue;
      throw Error(ErrorCode::unknown_name, "no layer uses this part",
                  {.file = file, .dataset = key + "." + name, .parameter = {}, .value = {}});
    }
  };
  all_used("attention", attentions);
  all_used("feed_forward", feed_forwards);
  return layers;
}

Llm read_description(const Json& root, const std::string& file) {
  JsonFields fields(root, file);
  fields.expect_format(format_name, format_version);
  Llm llm;
  llm.name = fields.text("name");
  if (fields.has("huggingface_names")) llm.huggingface_names = fields.texts("huggingface_names");
  llm.sources = fields.texts("sources");
  if (llm.sources.empty()) fields.refuse("sources", "must say where the sizes come from");
  llm.hidden_size = fields.whole("hidden_size", Range::positive);
  llm.vocabulary = fields.whole("vocabulary", Range::positive);
  llm.learned_positions = fields.optional_whole("learned_positions", Range::not_negative).value_or(0);
  llm.longest_context = fields.optional_whole("longest_context", Range::positive).value_or(0);
  llm.tied_embeddings = fields.flag("tied_embeddings");
  if (fields.has("norms_per_layer")) llm.norms_per_layer = fields.count("norms_per_layer");
  llm.norm_bias = fields.flag("norm_bias");
  if (fields.has("weights")) llm.weights = read_weights(fields.object("weights"));
  llm.layers = read_layers(fields, file);
  fields.finish();
  check_llm(llm, file);
  return llm;
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return text;
}

/// Whether `asked` is the name, or one of the repositories with or without its owner; letter case does not count.
bool is_named(const Llm& llm, const std::string& asked) {
  if (lower(llm.name) == asked) return true;
  return std::any_of(llm.huggingface_names.begin(), llm.huggingface_names.end(), [&](const std::string& repository) {
    const std::string name = lower(repository);
    return name == asked || name.substr(name.find('/') + 1) == asked;
  });
}

}  // namespace

void check_llm(const Llm& llm, const std::string& file) {
  std::string place;
  const auto at_most = [&](const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
    if (value >= least && value <= most) return;
    throw Error(ErrorCode::invalid_value, fmt::format("must be from {} to {}", least, most),
                {.file = file, .dataset = place, .parameter = name, .value = std::to_string(value)});
  };
  at_most("hidden_size", llm.hidden_size, 1, most_width);
  at_most("vocabulary", llm.vocabulary, 1, most_vocabulary);
  at_most("learned_positions", llm.learned_positions, 0, most_vocabulary);
  at_most("norms_per_layer", llm.norms_per_layer, 0, 16);
  at_most("layers", static_cast<std::int64_t>(llm.layers.size()), 1, most_layers);
  for (std::size_t i = 0; i < llm.layers.size(); ++i) {
    place = fmt::format("layer {}", i);
    const LayerAttention& a = llm.layers[i].attention;
    at_most("query_heads", a.query_heads, 1, most_heads);
    at_most("kv_heads", a.kv_heads, 1, most_heads);
    at_most("head_dim", a.head_dim, 1, most_heads);
    at_most("value_head_dim", a.value_head_dim, 1, most_heads);
    at_most("latent_rank", a.latent_rank, 0, most_width);
    at_most("rope_dim", a.rope_dim, 0, most_heads);
    at_most("query_rank", a.query_rank, a.index_heads > 0 ? 1 : 0, most_width);
    at_most("index_heads", a.index_heads, 0, most_heads);
    at_most("index_dim", a.index_dim, 0, most_heads);
    at_most("convolution_width", a.convolution_width, 0, most_heads);
    at_most("query_key_norm", a.query_key_norm, 0, most_inner);
    // Heads share keys and values in whole groups; in a linear layer values may have more heads than keys.
    const int larger = std::max(a.query_heads, a.kv_heads), smaller = std::min(a.query_heads, a.kv_heads);
    const bool grouped = a.kind == AttentionKind::linear ? larger % smaller == 0 : a.query_heads % a.kv_heads == 0;
    if (!grouped) {
      throw Error(ErrorCode::invalid_value, fmt::format("does not share out {} query heads", a.query_heads),
                  {.file = file, .dataset = place, .parameter = "kv_heads", .value = std::to_string(a.kv_heads)});
    }
    const LayerFeedForward& f = llm.layers[i].feed_forward;
    at_most("experts", f.experts, 0, most_experts);
    at_most("intermediate", f.intermediate, f.experts == 0 ? 1 : 0, most_inner);
    at_most("experts_per_token", f.experts_per_token, f.experts == 0 ? 0 : 1, f.experts);
    at_most("expert_intermediate", f.expert_intermediate, f.experts == 0 ? 0 : 1, most_width);
    at_most("shared_intermediate", f.shared_intermediate, 0, most_inner);
  }
}

Llm read_llm(const std::filesystem::path& file) { return read_description(parse_json_file(file), file.string()); }

Llm find_llm(const std::string& name_or_path) {
  std::error_code failure;
  std::filesystem::path path = name_or_path;
  const bool is_path = name_or_path.find('/') != std::string::npos || name_or_path.ends_with(".json");
  if (is_path && std::filesystem::is_directory(path, failure)) path /= "config.json";
  if (name_or_path.ends_with(".json") || (is_path && std::filesystem::is_regular_file(path, failure))) {
    const Json root = parse_json_file(path);
    // A description says its format; a config from Hugging Face the type of its model.
    if (root.is_object() && root.contains("model_type") && !root.contains("format")) return read_llm_config(path);
    return read_description(root, path.string());
  }
  const std::vector<std::string> names = data_names("llms");
  const std::string asked = lower(name_or_path);
  for (const std::string& name : names) {
    if (name == asked) return read_llm(find_data_file("llms", name));
  }
  for (const std::string& name : names) {
    Llm llm = read_llm(find_data_file("llms", name));
    if (is_named(llm, asked)) return llm;
  }
  throw Error(ErrorCode::unknown_name,
              names.empty() ? "none is found; name a .json file, or a folder with llms/ in EVICTSIM_DATA"
                            : fmt::format("known are {}, and their names at Hugging Face; or name a description or a "
                                          "config.json",
                                          fmt::join(names, ", ")),
              {.file = {}, .dataset = {}, .parameter = "model", .value = name_or_path});
}

}  // namespace evictsim::models

#include "traces/capture/captured_model.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>
#include <utility>

#include "traces/capture/host_tensor.h"
#include "traces/capture/sink/sink.h"
#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

[[noreturn]] void refuse(const std::string& message, const char* parameter, std::string value = {}) {
  throw Error(ErrorCode::invalid_argument, message, {.parameter = parameter, .value = std::move(value)});
}

const EngineSettings& checked(const EngineSettings& engine) {
  if (engine.threads < 1) refuse("at least one thread is needed", "threads", std::to_string(engine.threads));
  if (engine.ubatch < 1) refuse("a step holds at least one token", "ubatch", std::to_string(engine.ubatch));
  return engine;
}

}  // namespace

CapturedModel::CapturedModel(const std::filesystem::path& path, const EngineSettings& engine, RecordPlan record)
    : engine_(checked(engine)), record_(std::move(record)), file_(path), model_(file_, engine_) {
  fill_geometry();
  fill_layers();
  fill_sliding_windows();
  fill_from_graph();
  if ((record_.second_pass || record_.packets) && llama_model_n_swa(model_.get()) > 0) {
    throw Error(ErrorCode::unsupported,
                "the engine forgets entries of sliding-window layers, so nothing can be read "
                "behind the prompt and taken out again; capture without second pass and packets",
                {.file = path.string()});
  }
  fill_settings();
}

void CapturedModel::fill_geometry() {
  header_.model = path().stem().string();  // says more than general.name, which often names a training run
  header_.engine = "llama.cpp";
  header_.engine_version = EVICTSIM_LLAMA_VERSION;
  header_.num_layers = llama_model_n_layer(model_.get());
  header_.num_query_heads = llama_model_n_head(model_.get());
  header_.num_kv_heads = llama_model_n_head_kv(model_.get());
  header_.hidden_size = llama_model_n_embd(model_.get());
  header_.vocab_size = model_.vocabulary();
  const ErrorContext where{.file = path().string()};
  if (header_.num_kv_heads < 1 || header_.num_query_heads % header_.num_kv_heads != 0) {
    throw Error(ErrorCode::unsupported, "the model's attention heads do not form groups", where);
  }
  if (file_.model_number("attention.key_length_mla")) {
    throw Error(ErrorCode::unsupported, "the model caches a compressed latent (MLA), not keys and values", where);
  }
  header_.head_dim = static_cast<int>(
      file_.model_number("attention.key_length").value_or(header_.hidden_size / header_.num_query_heads));
  if (file_.model_number("attention.value_length").value_or(header_.head_dim) != header_.head_dim) {
    throw Error(ErrorCode::unsupported, "the model's keys and values differ in width", where);
  }
  header_.logit_softcap = file_.model_number("attn_logit_softcapping").value_or(0);
  if (const auto rms = file_.model_number("attention.layer_norm_rms_epsilon")) {
    header_.norm_epsilon = rms;
    header_.norm_kind = NormKind::rms;  // llama.cpp's converter has already added Gemma's one to the weights
  } else if (const auto layer_norm = file_.model_number("attention.layer_norm_epsilon")) {
    header_.norm_epsilon = layer_norm;
    header_.norm_kind = NormKind::layer;
  }
}

void CapturedModel::fill_layers() {
  header_.layers = record_.layers;
  std::sort(header_.layers.begin(), header_.layers.end());
  header_.layers.erase(std::unique(header_.layers.begin(), header_.layers.end()), header_.layers.end());
  if (header_.layers.empty()) {
    for (int layer = 0; layer < header_.num_layers; ++layer) header_.layers.push_back(layer);
  }
  const auto require_layer = [&](int layer, const char* parameter) {
    if (layer >= 0 && layer < header_.num_layers) return;
    refuse(fmt::format("the model has layers 0 to {}", header_.num_layers - 1), parameter, std::to_string(layer));
  };
  for (const int layer : header_.layers) require_layer(layer, "layers");
  std::sort(record_.full_query_layers.begin(), record_.full_query_layers.end());
  for (const int layer : record_.full_query_layers) {
    require_layer(layer, "q-all-layers");
    if (!std::binary_search(header_.layers.begin(), header_.layers.end(), layer)) {
      refuse("this layer is not among the captured ones", "q-all-layers", std::to_string(layer));
    }
  }
}

void CapturedModel::fill_sliding_windows() {
  const int window = llama_model_n_swa(model_.get());
  const auto pattern = file_.flags(file_.architecture() + ".attention.sliding_window_pattern");
  if (window <= 0 || !pattern || pattern->size() < static_cast<std::size_t>(header_.num_layers)) return;
  for (std::size_t layer = 0; layer < static_cast<std::size_t>(header_.num_layers); ++layer) {
    header_.sliding_window.push_back((*pattern)[layer] ? window : 0);
  }
}

void CapturedModel::require_known_windows(std::size_t length) const {
  const int window = llama_model_n_swa(model_.get());
  if (window <= 0 || !header_.sliding_window.empty() || length <= static_cast<std::size_t>(window)) return;
  throw Error(
      ErrorCode::unsupported,
      fmt::format(
          "the model file does not say which layers use its sliding window; keep the sequence within {} tokens, "
          "where the window makes no difference",
          window),
      {.file = path().string(), .value = std::to_string(length)});
}

void CapturedModel::require_tokens(const std::vector<std::int32_t>& tokens) const {
  for (const std::int32_t token : tokens) {
    if (token >= 0 && token < header_.vocab_size) continue;
    refuse(fmt::format("a token id outside the vocabulary of {}", header_.vocab_size), "tokens", std::to_string(token));
  }
}

std::vector<std::int32_t> CapturedModel::tokens_of(const std::string& text) const {
  constexpr std::string_view prefix = "tokens:";
  if (!text.starts_with(prefix)) return model_.tokenize(text, false, true);
  std::vector<std::int32_t> tokens;
  for (const char *begin = text.data() + prefix.size(), *end = text.data() + text.size();;) {
    std::int32_t token = 0;
    const auto [rest, failure] = std::from_chars(begin, end, token);
    const bool more = rest != end && *rest == ',';
    if (failure != std::errc{} || (rest != end && !more)) refuse("token ids are given as tokens:5,6,7", "tokens", text);
    tokens.push_back(token);
    if (!more) return tokens;
    begin = rest + 1;
  }
}

CollectorPlan CapturedModel::collector_plan() const {
  CollectorPlan plan;
  plan.num_layers = header_.num_layers;
  plan.layers = header_.layers;
  plan.num_query_heads = header_.num_query_heads;
  plan.num_kv_heads = header_.num_kv_heads;
  plan.head_dim = header_.head_dim;
  plan.hidden_size = header_.hidden_size;
  plan.attention_output = is_checked();
  return plan;
}

// One token through the model shows its graph: RoPE, scale, and whether every node is there. Which one does not matter.
void CapturedModel::fill_from_graph() {
  NodeCollector collector(collector_plan());
  LlamaContext context(model_, engine_, 1, &collector);
  collector.begin_step(0, 1);
  context.decode(std::array<std::int32_t, 1>{0}, 0);
  collector.finish_step();

  const RopeFacts& rope = collector.rope(0);
  header_.attention_scale = collector.attention(0).scale;
  for (std::size_t i = 1; i < header_.layers.size(); ++i) {
    if (collector.rope(i) == rope && collector.attention(i).scale == header_.attention_scale) continue;
    throw Error(ErrorCode::unsupported,
                "a trace holds one RoPE and one attention scale; capture layers that share them",
                {.parameter = "layers", .value = fmt::format("{}, {}", header_.layers.front(), header_.layers[i])});
  }
  header_.rope_theta = rope.base;
  header_.rope_attention_scaling = rope.magnitude();
  header_.rope_layout = rope.mode == 0 ? RopeLayout::interleaved : RopeLayout::half;
  header_.inv_freq = rope.frequencies();
  if (rope.rotated != header_.head_dim) header_.rotary_dim = rope.rotated;
  flash_attention_ = collector.attention(0).flash;
}

void CapturedModel::fill_settings() {
  std::array<char, 128> description{};
  llama_model_desc(model_.get(), description.data(), description.size());
  auto& extra = header_.extra;
  extra["capture_model_file"] = path().filename().string();
  extra["capture_model_name"] = file_.text("general.name").value_or("");
  extra["capture_model_type"] = description.data();
  extra["capture_threads"] = std::to_string(engine_.threads);
  extra["capture_ubatch"] = std::to_string(engine_.ubatch);
  extra["capture_cache_type"] = engine_.cache_type == CacheType::float32 ? "f32" : "f16";
  extra["capture_flash_attention"] = flash_attention_ ? "on" : "off";
  extra["capture_gpu_layers"] = engine_.gpu_layers == all_layers ? "all" : std::to_string(engine_.gpu_layers);
  if (engine_.gpu_layers != 0) extra["capture_devices"] = engine_devices(engine_);
  extra["capture_system_info"] = engine_system_information();
  if (const auto& pass = record_.second_pass) {
    extra["capture_second_pass_chunk"] = std::to_string(pass->chunk);
    extra["capture_repeat_prompt"] = pass->first_request;
    extra["capture_repeat_next"] = pass->next_request;
    extra["capture_repeat_tail"] = std::to_string(pass->tail);
  }
  if (const auto& packets = record_.packets) {
    extra["capture_packet_header"] = packets->header;
    extra["capture_packet_trailer"] = packets->trailer;
    extra["capture_packet_embeddings"] = std::filesystem::path(packets->embeddings).filename().string();
  }
}

double CapturedModel::tolerance() const {
  // A GPU multiplies float32 matrices with fewer bits where its library may.
  const bool exact = file_.is_float32() && engine_.cache_type == CacheType::float32 && !flash_attention_ &&
                     record_.tensor_type == TensorType::float32 && engine_.gpu_layers == 0;
  return record_.tolerance.value_or(exact ? 1e-5 : 2e-2);
}

CaptureOptions CapturedModel::sink_options(bool single_file) const {
  CaptureOptions options;
  options.layers = header_.layers;
  options.queries = record_.queries;
  options.full_query_layers = record_.full_query_layers;
  options.hidden = record_.hidden;
  options.channels.fill(true);
  options.store_text = record_.store_text;
  options.token_text = [this](std::int32_t token) { return model().piece(token); };
  options.hash_token_ids = record_.hash_token_ids;
  options.token_key = record_.token_key;
  options.type = record_.tensor_type;
  options.threads = record_.writer_threads;
  // One sequence at a time, of which everything is wanted: what bounds its memory is the engine's own cache.
  options.memory_bytes = std::numeric_limits<std::size_t>::max() / 2;
  options.shard_bytes = record_.shard_bytes;
  options.shard_seconds = record_.shard_seconds;
  options.single_file = single_file;
  return options;
}

void CapturedModel::introduce(Sink& sink, const std::map<std::string, std::string>& settings,
                              std::optional<double> overhead) const {
  Header header = header_;
  header.extra.insert(settings.begin(), settings.end());
  header.capture_overhead = overhead;
  sink.set_model(std::move(header));
  add_weights(sink);
}

void CapturedModel::add_weights(Sink& sink) const {
  const auto add = [&](int layer, const char* tensor, std::int32_t weight) {
    const auto found = file_.read(fmt::format("blk.{}.{}.weight", layer, tensor));
    if (!found) return false;
    const auto rows = static_cast<std::int64_t>(found->rows), columns = static_cast<std::int64_t>(found->columns);
    const HostTensor values(found->values, rows == 1 ? std::vector{columns} : std::vector{rows, columns});
    sink.add_weight(values.get(), weight, layer);
    return true;
  };
  for (const int layer : header_.layers) {
    add(layer, "attn_norm", EVICTSIM_CAPTURE_INPUT_NORM);
    add(layer, "post_attention_norm", EVICTSIM_CAPTURE_OUTPUT_NORM);
    if (record_.output_weights && !add(layer, "attn_output", EVICTSIM_CAPTURE_W_O)) {
      throw Error(ErrorCode::unsupported, "the model file holds no such weight; capture without w_o",
                  {.file = path().string(), .dataset = fmt::format("blk.{}.attn_output.weight", layer)});
    }
  }
}

}  // namespace evictsim::traces::capture

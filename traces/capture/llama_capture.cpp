#include "traces/capture/llama_capture.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

[[noreturn]] void refuse(const std::string& message, const char* parameter, std::string value = {}) {
  throw Error(ErrorCode::invalid_argument, message, {.parameter = parameter, .value = std::move(value)});
}

// The prompt in steps of `ubatch` tokens, then one token at a time, as a server would run it.
template <typename Step>
void for_each_step(std::size_t prompt, std::size_t length, std::size_t ubatch, Step step) {
  for (std::size_t first = 0; first < prompt; first += ubatch) step(first, std::min(ubatch, prompt - first));
  for (std::size_t row = prompt; row < length; ++row) step(row, std::size_t{1});
}

Speed speed_of(std::size_t prompt, std::size_t length, double prefill_seconds, double seconds) {
  Speed speed;
  speed.seconds = seconds;
  speed.prefill = static_cast<double>(prompt) / prefill_seconds;
  if (length > prompt) speed.decode = static_cast<double>(length - prompt) / (seconds - prefill_seconds);
  return speed;
}

std::int32_t largest_index(std::span<const float> logits) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace

LlamaCapture::LlamaCapture(CapturePlan plan) : plan_(std::move(plan)), file_(plan_.model), model_(file_) {
  if (plan_.engine.threads < 1)
    refuse("at least one thread is needed", "threads", std::to_string(plan_.engine.threads));
  if (plan_.engine.ubatch < 1) refuse("a step holds at least one token", "ubatch", std::to_string(plan_.engine.ubatch));
  if (plan_.sequence.decode < 0)
    refuse("the number of tokens to decode is negative", "decode", std::to_string(plan_.sequence.decode));
  fill_geometry();
  read_prompt();
  fill_sliding_windows();
  fill_from_graph();
  plan_other_passes();
  fill_settings();
}

// Ids as given, or text; markers such as <|im_start|> count as tokens.
std::vector<std::int32_t> LlamaCapture::tokens_of(const std::string& text) const {
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

void LlamaCapture::plan_other_passes() {
  const RecordPlan& record = plan_.record;
  if (!record.second_pass && !record.packets) return;
  if (llama_model_n_swa(model_.get()) > 0) {
    throw Error(ErrorCode::unsupported,
                "the engine forgets entries of sliding-window layers, so nothing can be read "
                "behind the prompt and taken out again; capture without second pass and packets",
                {.file = plan_.model.string()});
  }
  const auto tokenize = [this](const std::string& text) { return tokens_of(text); };
  const auto require_context = [&](std::size_t tokens, const char* parameter) {
    if (tokens <= static_cast<std::size_t>(model_.context_length())) return;
    refuse(fmt::format("{} tokens do not fit into the model's context of {}", tokens, model_.context_length()),
           parameter);
  };
  if (record.second_pass) {
    second_pass_ = plan_second_pass(*record.second_pass, prompt_, tokenize);
    for (const ChunkPass& pass : second_pass_) {
      require_context(prompt_.size() + pass.tokens.size(), "second-pass");
      require_tokens(pass.tokens);
    }
  }
  if (!record.packets) return;
  wrapper_ = make_wrapper(*record.packets, header_.hidden_size, header_.vocab_size, tokenize);
  const auto found = spans_.find("document");
  const Packets packets = packets_of(found == spans_.end() ? std::vector<Span>() : found->second,
                                     static_cast<std::int32_t>(prompt_.size()), *wrapper_);
  const std::size_t decode =
      is_greedy() ? static_cast<std::size_t>(plan_.sequence.decode) : plan_.sequence.continuation_tokens.size();
  require_context(static_cast<std::size_t>(entries_needed(packets, static_cast<std::int32_t>(prompt_.size() + decode))),
                  "packets");
}

void LlamaCapture::require_tokens(const std::vector<std::int32_t>& tokens) const {
  for (const std::int32_t token : tokens) {
    if (token >= 0 && token < header_.vocab_size) continue;
    refuse(fmt::format("a token id outside the vocabulary of {}", header_.vocab_size), "tokens", std::to_string(token));
  }
}

bool LlamaCapture::is_greedy() const {
  return !plan_.sequence.continuation && plan_.sequence.continuation_tokens.empty();
}

void LlamaCapture::fill_geometry() {
  header_.model = plan_.model.stem().string();  // says more than general.name, which often names a training run
  header_.engine = "llama.cpp";
  header_.engine_version = EVICTSIM_LLAMA_VERSION;
  header_.created = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::chrono::system_clock::now()));
  header_.num_layers = llama_model_n_layer(model_.get());
  header_.num_query_heads = llama_model_n_head(model_.get());
  header_.num_kv_heads = llama_model_n_head_kv(model_.get());
  header_.hidden_size = llama_model_n_embd(model_.get());
  header_.vocab_size = model_.vocabulary();
  const ErrorContext where{.file = plan_.model.string()};
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

  header_.layers = plan_.record.layers;
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
  for (const int layer : plan_.record.query_rows.full_layers) {
    require_layer(layer, "q-all-layers");
    if (!std::binary_search(header_.layers.begin(), header_.layers.end(), layer)) {
      refuse("this layer is not among the captured ones", "q-all-layers", std::to_string(layer));
    }
  }
}

void LlamaCapture::read_prompt() {
  SequencePlan& sequence = plan_.sequence;
  if (!sequence.prompt_tokens.empty()) {
    prompt_ = sequence.prompt_tokens;
  } else {
    text_ = sequence.chat_template ? model_.apply_chat_template(sequence.system, sequence.prompt) : sequence.prompt;
    prompt_ = model_.tokenize(text_, true, sequence.chat_template);
  }
  if (sequence.continuation) {
    sequence.continuation_tokens = model_.tokenize(*sequence.continuation, false, false);
    if (sequence.continuation_tokens.empty()) refuse("the continuation is empty", "continuation");
  }
  if (prompt_.empty()) refuse("the prompt is empty", "prompt");
  require_tokens(prompt_);
  require_tokens(sequence.continuation_tokens);
  const std::size_t decode =
      is_greedy() ? static_cast<std::size_t>(sequence.decode) : sequence.continuation_tokens.size();
  if (prompt_.size() + decode > static_cast<std::size_t>(model_.context_length())) {
    refuse(fmt::format("{} prompt tokens and {} to decode do not fit into the model's context of {}", prompt_.size(),
                       decode, model_.context_length()),
           "prompt");
  }
  std::vector<std::string> pieces;
  for (const std::int32_t token : prompt_) pieces.push_back(model_.piece(token));
  spans_ = locate_spans(sequence.spans, pieces);
}

void LlamaCapture::fill_sliding_windows() {
  const int window = llama_model_n_swa(model_.get());
  if (window <= 0) return;
  const auto pattern = file_.flags(file_.architecture() + ".attention.sliding_window_pattern");
  if (pattern && pattern->size() >= static_cast<std::size_t>(header_.num_layers)) {
    for (const int layer : header_.layers) {
      header_.sliding_window.push_back((*pattern)[static_cast<std::size_t>(layer)] ? window : 0);
    }
    return;
  }
  const std::size_t length = prompt_.size() + std::max(plan_.sequence.continuation_tokens.size(),
                                                       static_cast<std::size_t>(plan_.sequence.decode));
  if (length > static_cast<std::size_t>(window)) {
    throw Error(
        ErrorCode::unsupported,
        fmt::format(
            "the model file does not say which layers use its sliding window; keep the sequence within {} tokens, "
            "where the window makes no difference",
            window),
        {.file = plan_.model.string(), .value = std::to_string(length)});
  }
}

CollectorPlan LlamaCapture::collector_plan() const {
  CollectorPlan plan;
  plan.num_layers = header_.num_layers;
  plan.layers = header_.layers;
  plan.num_query_heads = header_.num_query_heads;
  plan.num_kv_heads = header_.num_kv_heads;
  plan.head_dim = header_.head_dim;
  plan.hidden_size = header_.hidden_size;
  plan.attention_output = plan_.record.check && plan_.record.output_weights;
  return plan;
}

// One token through the model shows its graph: RoPE, scale, and whether every node is there.
void LlamaCapture::fill_from_graph() {
  NodeCollector collector(collector_plan());
  LlamaContext context(model_, plan_.engine, static_cast<std::int32_t>(prompt_.size()), &collector);
  collector.begin_step(0, 1);
  context.decode(std::span(prompt_).first(1), 0);
  collector.finish_step();
  has_after_attention_ = collector.has_after_attention();

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
  header_.extra["capture_flash_attention"] = collector.attention(0).flash ? "on" : "off";
}

void LlamaCapture::fill_settings() {
  std::array<char, 128> description{};
  llama_model_desc(model_.get(), description.data(), description.size());
  auto& extra = header_.extra;
  extra["capture_model_file"] = plan_.model.filename().string();
  extra["capture_model_name"] = file_.text("general.name").value_or("");
  extra["capture_model_type"] = description.data();
  extra["capture_threads"] = std::to_string(plan_.engine.threads);
  extra["capture_ubatch"] = std::to_string(plan_.engine.ubatch);
  extra["capture_cache_type"] = plan_.engine.cache_type == CacheType::float32 ? "f32" : "f16";
  extra["capture_system_info"] = engine_system_information();
  extra["capture_decoding"] = is_greedy() ? "greedy" : "teacher_forced";
  extra["capture_chat_template"] = plan_.sequence.chat_template ? "yes" : "no";
  if (const auto& pass = plan_.record.second_pass) {
    extra["capture_second_pass_chunk"] = std::to_string(pass->chunk);
    extra["capture_repeat_prompt"] = pass->first_request;
    extra["capture_repeat_next"] = pass->next_request;
    extra["capture_repeat_tail"] = std::to_string(pass->tail);
  }
  if (const auto& packets = plan_.record.packets) {
    extra["capture_packet_header"] = packets->header;
    extra["capture_packet_trailer"] = packets->trailer;
    extra["capture_packet_embeddings"] = std::filesystem::path(packets->embeddings).filename().string();
  }
}

// Greedy tokens come from a pass without callbacks, so that the captured pass can be compared with it token by token.
std::vector<std::int32_t> LlamaCapture::continue_prompt() const {
  const SequencePlan& sequence = plan_.sequence;
  if (!is_greedy()) return sequence.continuation_tokens;
  std::vector<std::int32_t> tokens = prompt_;
  const std::size_t limit = prompt_.size() + static_cast<std::size_t>(sequence.decode);
  if (limit == prompt_.size()) return {};
  const auto vocabulary = static_cast<std::size_t>(header_.vocab_size);
  LlamaContext context(model_, plan_.engine, static_cast<std::int32_t>(limit), nullptr);
  bool ended = false;
  for_each_step(
      prompt_.size(), limit, static_cast<std::size_t>(plan_.engine.ubatch), [&](std::size_t first, std::size_t count) {
        if (ended) return;
        const auto logits = context.decode(std::span(tokens).subspan(first, count), static_cast<std::int32_t>(first));
        if (first + count < prompt_.size() || first + count == limit) return;
        const std::int32_t next = largest_index(logits.last(vocabulary));
        ended = !sequence.ignore_end && model_.ends_generation(next);
        if (!ended) tokens.push_back(next);
      });
  return {tokens.begin() + static_cast<std::ptrdiff_t>(prompt_.size()), tokens.end()};
}

Speed LlamaCapture::measure(const std::vector<std::int32_t>& tokens, NodeCollector* collector) const {
  LlamaContext context(model_, plan_.engine, static_cast<std::int32_t>(tokens.size()), collector);
  const auto start = Clock::now();
  double prefill = 0;
  for_each_step(prompt_.size(), tokens.size(), static_cast<std::size_t>(plan_.engine.ubatch),
                [&](std::size_t first, std::size_t count) {
                  if (collector != nullptr)
                    collector->begin_step(static_cast<std::int32_t>(first), static_cast<std::int32_t>(count));
                  context.decode(std::span(tokens).subspan(first, count), static_cast<std::int32_t>(first));
                  if (collector != nullptr) collector->finish_step();
                  if (first < prompt_.size()) prefill = seconds_since(start);
                });
  return speed_of(prompt_.size(), tokens.size(), prefill, seconds_since(start));
}

Recording LlamaCapture::recording(const std::vector<std::int32_t>& tokens) const {
  Recording recording;
  recording.header = header_;
  recording.token_ids = tokens;
  recording.query_rows = plan_.record.query_rows;
  recording.hidden = plan_.record.hidden;
  recording.after_attention = has_after_attention_;
  recording.writer.tensor_type = plan_.record.tensor_type;
  SequenceInfo& sequence = recording.sequence;
  sequence.prompt_length = static_cast<std::int32_t>(prompt_.size());
  sequence.length = static_cast<std::int32_t>(tokens.size());
  sequence.task = plan_.sequence.task;
  if (plan_.record.store_text && !text_.empty()) sequence.text = text_;
  sequence.spans = spans_;
  for (std::int32_t row = 0; row < sequence.length; ++row) sequence.positions.push_back(row);
  return recording;
}

void LlamaCapture::write_weights(TraceRecorder& recorder) const {
  const auto write = [&](int layer, const char* tensor, LayerWeight weight) {
    const auto found = file_.read(fmt::format("blk.{}.{}.weight", layer, tensor));
    if (found) recorder.add_weight(layer, weight, found->values);
    return found.has_value();
  };
  for (const int layer : header_.layers) {
    write(layer, "attn_norm", LayerWeight::input_norm);
    write(layer, "post_attention_norm", LayerWeight::output_norm);
    if (plan_.record.output_weights && !write(layer, "attn_output", LayerWeight::w_o)) {
      throw Error(ErrorCode::unsupported, "the model file holds no such weight; capture without w_o",
                  {.file = plan_.model.string(), .dataset = fmt::format("blk.{}.attn_output.weight", layer)});
    }
  }
}

std::vector<std::int32_t> LlamaCapture::rows_to_check(std::int32_t length) const {
  const auto prompt = static_cast<std::int32_t>(prompt_.size());
  const std::array candidates = {
      0, 1, prompt / 4, prompt / 2, prompt - 32, prompt - 1, prompt, (prompt + length) / 2, length - 1};
  std::set<std::int32_t> rows;
  for (const std::int32_t row : candidates) {
    if (row >= 0 && row < length) rows.insert(row);
  }
  return {rows.begin(), rows.end()};
}

void LlamaCapture::require_greedy(const SideChannels& channels, const std::vector<std::int32_t>& tokens) const {
  for (std::size_t row = prompt_.size(); row < tokens.size(); ++row) {
    if (channels.most_probable(row - 1) == tokens[row]) continue;
    throw Error(
        ErrorCode::invalid_value,
        fmt::format(
            "the model chose another token at row {} while it was captured; the engine is not deterministic here",
            row));
  }
}

void LlamaCapture::judge(CaptureReport& report, const AttentionCheck& check,
                         const std::filesystem::path& output) const {
  const RecordPlan& record = plan_.record;
  const bool exact = file_.is_float32() && plan_.engine.cache_type == CacheType::float32 &&
                     header_.extra.at("capture_flash_attention") == "off" && record.tensor_type == TensorType::float32;
  report.tolerance = record.tolerance.value_or(exact ? 1e-5 : 2e-2);
  report.check = check.compare(output);
  if (report.check->largest <= report.tolerance) return;
  std::filesystem::path rejected = output;
  rejected += ".rejected";
  std::error_code ignored;
  std::filesystem::rename(output, rejected, ignored);
  throw Error(ErrorCode::invalid_value,
              fmt::format("attention recomputed from the trace differs from the engine's by {:.2e} (layer {}, row {}), "
                          "more than {:.0e}; "
                          "the trace was renamed",
                          report.check->largest, report.check->layer, report.check->row, report.tolerance),
              {.file = rejected.string()});
}

// Behind the prompt, before anything is decoded; the cache is then as it was.
void LlamaCapture::record_second_pass(LlamaContext& context, NodeCollector& collector, TraceRecorder& recorder) const {
  const auto prompt = static_cast<std::int32_t>(prompt_.size());
  recorder.begin_second_pass(rows_of(second_pass_, prompt));
  for (const ChunkPass& pass : second_pass_) {
    for_each_step(pass.tokens.size(), pass.tokens.size(), static_cast<std::size_t>(plan_.engine.ubatch),
                  [&](std::size_t first, std::size_t count) {
                    const std::int32_t position = prompt + static_cast<std::int32_t>(first);
                    collector.begin_step(position, static_cast<std::int32_t>(count));
                    context.decode(std::span(pass.tokens).subspan(first, count), position);
                    recorder.add_second_pass(collector.finish_step());
                  });
    context.forget(prompt);
  }
}

void LlamaCapture::record_packets(const std::vector<std::int32_t>& tokens, TraceRecorder& recorder) const {
  CollectorPlan plan = collector_plan();
  plan.residual = false;  // embeddings are no node of the graph, and nothing of it is stored
  plan.attention_output = false;
  const auto record = [&](PacketSet set, const Wrapper& wrapper) {
    const Packets packets = packets_of(spans_.at("document"), static_cast<std::int32_t>(prompt_.size()), wrapper);
    recorder.begin_packets(set, packets);
    NodeCollector collector(plan);
    LlamaContext context(model_, plan_.engine, entries_needed(packets, static_cast<std::int32_t>(tokens.size())),
                         &collector, 2);
    PacketPass pass(context, collector, plan_.engine.ubatch, tokens);
    pass.read_alone(packets, wrapper, [&](const StepRows& step) { recorder.add_packet_rows(set, step); });
    pass.read_behind(packets, wrapper, static_cast<std::int32_t>(prompt_.size()),
                     [&](const StepRows& step) { recorder.add_rows_after_packets(set, step); });
  };
  record(PacketSet::bare, {});
  if (wrapper_->header.rows + wrapper_->trailer.rows > 0) record(PacketSet::wrapped, *wrapper_);
}

CaptureReport LlamaCapture::run(const std::filesystem::path& output, const Progress& progress) {
  std::vector<std::int32_t> tokens = prompt_;
  const std::vector<std::int32_t> continuation = continue_prompt();
  tokens.insert(tokens.end(), continuation.begin(), continuation.end());
  CaptureReport report;
  report.prompt_length = static_cast<std::int32_t>(prompt_.size());
  report.length = static_cast<std::int32_t>(tokens.size());
  for (const std::int32_t token : continuation) report.continuation += model_.piece(token);

  NodeCollector collector(collector_plan());
  if (plan_.record.measure_overhead) {
    report.uncaptured = measure(tokens, nullptr);
    report.overhead = measure(tokens, &collector).seconds / report.uncaptured->seconds;
    header_.capture_overhead = report.overhead;
  }

  TraceRecorder recorder(output, recording(tokens));
  write_weights(recorder);
  const bool checked = collector_plan().attention_output;
  AttentionCheck check(header_.layers, checked ? rows_to_check(report.length) : std::vector<std::int32_t>{},
                       header_.hidden_size);
  std::int32_t entries = report.length;
  for (const ChunkPass& pass : second_pass_) {
    entries = std::max(entries, report.prompt_length + static_cast<std::int32_t>(pass.tokens.size()));
  }
  LlamaContext context(model_, plan_.engine, entries, &collector);
  const auto start = Clock::now();
  double prefill = 0;
  double aside = 0;
  for_each_step(prompt_.size(), tokens.size(), static_cast<std::size_t>(plan_.engine.ubatch),
                [&](std::size_t first, std::size_t count) {
                  collector.begin_step(static_cast<std::int32_t>(first), static_cast<std::int32_t>(count));
                  const auto logits =
                      context.decode(std::span(tokens).subspan(first, count), static_cast<std::int32_t>(first));
                  StepRows step = collector.finish_step();
                  step.logits = logits;
                  recorder.add(step);
                  check.add(step);
                  if (first < prompt_.size()) prefill = seconds_since(start);
                  if (progress) progress(static_cast<std::int32_t>(first + count), report.length);
                  if (first + count == prompt_.size() && !second_pass_.empty()) {
                    record_second_pass(context, collector, recorder);
                    aside = seconds_since(start) - prefill;
                  }
                });
  report.captured = speed_of(prompt_.size(), tokens.size(), prefill, seconds_since(start) - aside);
  if (is_greedy()) require_greedy(recorder.channels(), tokens);
  if (wrapper_) record_packets(tokens, recorder);
  recorder.finish();
  if (checked) judge(report, check, output);
  return report;
}

}  // namespace evictsim::traces::capture

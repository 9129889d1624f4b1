#include "traces/capture/llama_engine.h"

#include <fmt/format.h>
#include <ggml-backend.h>
#include <llama.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <utility>
#include <vector>

#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

// The engine's log is global, so its last complaint is kept globally too.
std::mutex log_mutex;
std::string last_error;

void keep_errors(ggml_log_level level, const char* text, void*) {
  if (level != GGML_LOG_LEVEL_ERROR) return;
  const std::scoped_lock lock(log_mutex);
  // The first of several lines is the cause; what follows repeats it on the way out.
  if (!last_error.empty()) return;
  last_error = text;
  while (!last_error.empty() && (last_error.back() == '\n' || last_error.back() == ' ')) last_error.pop_back();
  for (char& letter : last_error) {
    if (letter == '\n') letter = ' ';
  }
}

std::string take_last_error() {
  const std::scoped_lock lock(log_mutex);
  return std::exchange(last_error, {});
}

ErrorContext context_of(const GgufFile& file) { return {.file = file.path().string()}; }

void start_engine() {
  static std::once_flag once;
  std::call_once(once, [] {
    llama_log_set(keep_errors, nullptr);
    ggml_backend_load_all();
    llama_backend_init();
  });
  take_last_error();
}

std::vector<ggml_backend_dev_t> gpus() {
  std::vector<ggml_backend_dev_t> found;
  for (std::size_t i = 0; i < ggml_backend_dev_count(); ++i) {
    ggml_backend_dev_t device = ggml_backend_dev_get(i);
    const auto type = ggml_backend_dev_type(device);
    if (type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU) found.push_back(device);
  }
  return found;
}

/// The devices that the settings name, for a list that ends with null.
std::vector<ggml_backend_dev_t> devices_of(const EngineSettings& settings) {
  if (settings.gpu_layers == 0) return {};
  const auto wrong = [](const char* parameter, int value, const std::string& rule) {
    return Error(ErrorCode::invalid_argument, rule, {.parameter = parameter, .value = std::to_string(value)});
  };
  if (settings.gpu_layers < all_layers) throw wrong("gpu-layers", settings.gpu_layers, "must be a number or all");
  std::vector<ggml_backend_dev_t> found = gpus();
  if (found.empty()) {
    throw Error(
        ErrorCode::unsupported,
        "llama.cpp finds no GPU: it was built for the CPU alone, or no device answers (docs/capture.md says how "
        "to build it with CUDA)",
        {.parameter = "gpu-layers", .value = std::to_string(settings.gpu_layers)});
  }
  if (!settings.main_gpu) return found;
  if (*settings.main_gpu < 0 || static_cast<std::size_t>(*settings.main_gpu) >= found.size()) {
    throw wrong("main-gpu", *settings.main_gpu, fmt::format("must lie between 0 and {}", found.size() - 1));
  }
  return {found[static_cast<std::size_t>(*settings.main_gpu)]};
}

}  // namespace

LlamaModel::LlamaModel(const GgufFile& file, const EngineSettings& settings) : model_(nullptr, llama_model_free) {
  start_engine();
  llama_model_params parameters = llama_model_default_params();
  parameters.n_gpu_layers = settings.gpu_layers;
  // The list is given also when it is empty: a GPU build would otherwise compute large products on a GPU all the same.
  std::vector<ggml_backend_dev_t> devices = devices_of(settings);
  devices.push_back(nullptr);
  parameters.devices = devices.data();
  model_.reset(llama_model_load_from_file(file.path().c_str(), parameters));
  if (model_ == nullptr) {
    throw Error(
        ErrorCode::unsupported,
        fmt::format("llama.cpp cannot load this model (architecture '{}'): {}", file.architecture(), take_last_error()),
        context_of(file));
  }
  vocab_ = llama_model_get_vocab(model_.get());
  const char* reason = nullptr;
  if (!llama_model_has_decoder(model_.get()) || llama_model_has_encoder(model_.get()))
    reason = "it is not a decoder-only model";
  if (llama_model_is_recurrent(model_.get()) || llama_model_is_hybrid(model_.get())) reason = "it has recurrent layers";
  if (llama_model_is_diffusion(model_.get())) reason = "it is a diffusion model";
  if (reason != nullptr) {
    throw Error(ErrorCode::unsupported,
                fmt::format("architecture '{}' cannot be captured: {}", file.architecture(), reason), context_of(file));
  }
}

int LlamaModel::vocabulary() const { return llama_vocab_n_tokens(vocab_); }

int LlamaModel::context_length() const { return llama_model_n_ctx_train(model_.get()); }

bool LlamaModel::ends_generation(std::int32_t token) const { return llama_vocab_is_eog(vocab_, token); }

std::vector<std::int32_t> LlamaModel::tokenize(const std::string& text, bool beginning, bool special) const {
  if (llama_vocab_type(vocab_) == LLAMA_VOCAB_TYPE_NONE) {
    throw Error(ErrorCode::unsupported, "the model file holds no tokenizer; give token ids instead of text");
  }
  const auto length = static_cast<std::int32_t>(text.size());
  const std::int32_t needed = -llama_tokenize(vocab_, text.data(), length, nullptr, 0, beginning, special);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(std::max(needed, 0)));
  if (!tokens.empty()) llama_tokenize(vocab_, text.data(), length, tokens.data(), needed, beginning, special);
  return tokens;
}

std::string LlamaModel::piece(std::int32_t token) const {
  if (llama_vocab_type(vocab_) == LLAMA_VOCAB_TYPE_NONE) return {};
  std::array<char, 256> buffer{};
  const std::int32_t size =
      llama_token_to_piece(vocab_, token, buffer.data(), static_cast<std::int32_t>(buffer.size()), 0, true);
  if (size >= 0) return {buffer.data(), static_cast<std::size_t>(size)};
  std::string text(static_cast<std::size_t>(-size), '\0');
  llama_token_to_piece(vocab_, token, text.data(), -size, 0, true);
  return text;
}

std::string LlamaModel::apply_chat_template(const std::string& system, const std::string& user) const {
  const char* chat_template = llama_model_chat_template(model_.get(), nullptr);
  if (chat_template == nullptr) throw Error(ErrorCode::unsupported, "the model file holds no chat template");
  std::vector<llama_chat_message> messages;
  if (!system.empty()) messages.push_back({.role = "system", .content = system.c_str()});
  messages.push_back({.role = "user", .content = user.c_str()});
  std::string text(2 * (system.size() + user.size()) + 1024, '\0');
  const auto apply = [&] {
    return llama_chat_apply_template(chat_template, messages.data(), messages.size(), true, text.data(),
                                     static_cast<std::int32_t>(text.size()));
  };
  std::int32_t size = apply();
  if (size > static_cast<std::int32_t>(text.size())) {
    text.resize(static_cast<std::size_t>(size));
    size = apply();
  }
  if (size < 0) throw Error(ErrorCode::unsupported, "llama.cpp does not know this model's chat template");
  text.resize(static_cast<std::size_t>(size));
  return text;
}

LlamaContext::LlamaContext(const LlamaModel& model, const EngineSettings& settings, std::int32_t length,
                           NodeCollector* collector, int sequences)
    : context_(nullptr, llama_free),
      vocabulary_(static_cast<std::size_t>(model.vocabulary())),
      hidden_(static_cast<std::size_t>(llama_model_n_embd(model.get()))) {
  llama_context_params parameters = llama_context_default_params();
  parameters.n_ctx = static_cast<std::uint32_t>(length);
  // One decode call is one forward step: llama.cpp has no reason to split or reorder its rows.
  parameters.n_batch = static_cast<std::uint32_t>(settings.ubatch);
  parameters.n_ubatch = static_cast<std::uint32_t>(settings.ubatch);
  parameters.n_seq_max = static_cast<std::uint32_t>(sequences);
  // One buffer for all sequences: llama.cpp then takes the rows of a step in their order, and entries can be shared.
  parameters.kv_unified = sequences > 1;
  parameters.n_threads = settings.threads;
  parameters.n_threads_batch = settings.threads;
  parameters.flash_attn_type = settings.flash_attention == FlashAttention::on    ? LLAMA_FLASH_ATTN_TYPE_ENABLED
                               : settings.flash_attention == FlashAttention::off ? LLAMA_FLASH_ATTN_TYPE_DISABLED
                                                                                 : LLAMA_FLASH_ATTN_TYPE_AUTO;
  parameters.type_k = parameters.type_v = settings.cache_type == CacheType::float32 ? GGML_TYPE_F32 : GGML_TYPE_F16;
  if (collector != nullptr) {
    parameters.cb_eval = &NodeCollector::on_node;
    parameters.cb_eval_user_data = collector;
  }
  take_last_error();
  context_.reset(llama_init_from_model(model.get(), parameters));
  if (context_ == nullptr) {
    throw Error(ErrorCode::unsupported, "llama.cpp refused these settings: " + take_last_error());
  }
}

namespace {

/// A batch with room for `rows` rows of tokens, or of embeddings of `hidden` numbers.
class Batch {
 public:
  Batch(std::size_t rows, std::size_t hidden)
      : batch_(llama_batch_init(static_cast<std::int32_t>(rows), static_cast<std::int32_t>(hidden), 1)) {}
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;
  ~Batch() { llama_batch_free(batch_); }
  llama_batch& get() { return batch_; }

 private:
  llama_batch batch_;
};

}  // namespace

std::span<const float> LlamaContext::decode(std::span<const std::int32_t> tokens, std::int32_t first, int sequence) {
  Batch batch(tokens.size(), 0);
  std::copy(tokens.begin(), tokens.end(), batch.get().token);
  return run(batch.get(), tokens.size(), first, sequence);
}

std::span<const float> LlamaContext::decode_embeddings(std::span<const float> embeddings, std::int32_t first,
                                                       int sequence) {
  const std::size_t rows = embeddings.size() / hidden_;
  Batch batch(rows, hidden_);
  std::copy(embeddings.begin(), embeddings.end(), batch.get().embd);
  return run(batch.get(), rows, first, sequence);
}

std::span<const float> LlamaContext::run(llama_batch& batch, std::size_t rows, std::int32_t first, int sequence) {
  batch.n_tokens = static_cast<std::int32_t>(rows);
  for (std::int32_t i = 0; i < batch.n_tokens; ++i) {
    batch.pos[i] = first + i;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = sequence;
    // Logits for every row: otherwise the last layer computes only the last row's residual stream.
    batch.logits[i] = 1;
  }
  take_last_error();
  if (const int status = llama_decode(context_.get(), batch); status != 0) {
    throw Error(ErrorCode::unsupported,
                fmt::format("llama.cpp failed to run the model (status {}): {}", status, take_last_error()));
  }
  return {llama_get_logits(context_.get()), rows * vocabulary_};
}

void LlamaContext::forget(std::int32_t first, int sequence) {
  if (llama_memory_seq_rm(llama_get_memory(context_.get()), sequence, first, -1)) return;
  throw Error(ErrorCode::unsupported, "llama.cpp cannot take entries out of this model's cache");
}

void LlamaContext::share(int from, int to) { llama_memory_seq_cp(llama_get_memory(context_.get()), from, to, -1, -1); }

std::string engine_system_information() { return llama_print_system_info(); }

std::string engine_devices(const EngineSettings& settings) {
  std::string text;
  for (ggml_backend_dev_t device : devices_of(settings)) {
    text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", ggml_backend_dev_name(device),
                        ggml_backend_dev_description(device));
  }
  return text;
}

}  // namespace evictsim::traces::capture

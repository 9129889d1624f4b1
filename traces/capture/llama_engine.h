#pragma once
/// \file
/// llama.cpp behind two small owners: a loaded model and one context of it.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "traces/capture/gguf_file.h"
#include "traces/capture/node_collector.h"

struct llama_batch;
struct llama_model;
struct llama_context;
struct llama_vocab;

namespace evictsim::traces::capture {

enum class FlashAttention { automatic, on, off };
enum class CacheType { float16, float32 };

inline constexpr int all_layers = -1;

/// Settings of the engine that change the recorded numbers; all of them are written into the trace.
struct EngineSettings {
  int threads = 1;
  int ubatch = 512;             ///< prompt tokens per forward step
  int gpu_layers = 0;           ///< the last layers that run on GPUs, or all_layers; 0: no GPU is touched
  std::optional<int> main_gpu;  ///< the only GPU used; absent: the engine spreads layers over all
  FlashAttention flash_attention = FlashAttention::automatic;
  CacheType cache_type = CacheType::float16;
};

/// A loaded model. Loading silences the engine's log and keeps its last error for messages.
class LlamaModel {
 public:
  /// Throws Error (unsupported, invalid_argument) with the engine's own reason.
  explicit LlamaModel(const GgufFile& file, const EngineSettings& settings = {});

  [[nodiscard]] llama_model* get() const { return model_.get(); }
  [[nodiscard]] int vocabulary() const;
  [[nodiscard]] int context_length() const;
  /// Whether the model ends its answer with this token.
  [[nodiscard]] bool ends_generation(std::int32_t token) const;

  /// `beginning` adds the special tokens that the model wants at the start; `special` reads markers such as
  /// <|im_start|> as tokens. Throws Error(unsupported) when the file holds no tokenizer.
  [[nodiscard]] std::vector<std::int32_t> tokenize(const std::string& text, bool beginning, bool special) const;
  /// The text of one token; special tokens are spelled out.
  [[nodiscard]] std::string piece(std::int32_t token) const;
  /// A one-question conversation up to the start of the answer, in the model's own template.
  /// Throws Error(unsupported) when it has none that the engine knows.
  [[nodiscard]] std::string apply_chat_template(const std::string& system, const std::string& user) const;

 private:
  std::unique_ptr<llama_model, void (*)(llama_model*)> model_;
  const llama_vocab* vocab_ = nullptr;
};

/// One context with room for `length` entries, which belong to sequences: those of sequence 0 unless another one is
/// named. A token attends the entries of its own sequence.
class LlamaContext {
 public:
  /// `collector` may be null (nothing is captured) and must outlive the context.
  LlamaContext(const LlamaModel& model, const EngineSettings& settings, std::int32_t length, NodeCollector* collector,
               int sequences = 1);

  /// Runs tokens at positions from `first` on, at most `ubatch` of them, as one forward step.
  /// Returns the logits of every row [rows, vocab], valid until the next call. Throws Error(unsupported).
  std::span<const float> decode(std::span<const std::int32_t> tokens, std::int32_t first, int sequence = 0);
  /// The same for rows that are no tokens: their embeddings [rows, D].
  std::span<const float> decode_embeddings(std::span<const float> embeddings, std::int32_t first, int sequence = 0);
  /// Forgets the sequence's entries at positions from `first` on. Throws Error(unsupported).
  void forget(std::int32_t first, int sequence = 0);
  /// Lets sequence `to` attend the entries of sequence `from` too.
  void share(int from, int to);

 private:
  std::span<const float> run(llama_batch& batch, std::size_t rows, std::int32_t first, int sequence);

  std::unique_ptr<llama_context, void (*)(llama_context*)> context_;
  std::size_t vocabulary_, hidden_;
};

/// What the engine says about its build and the CPU features it uses.
std::string engine_system_information();
/// The GPUs that these settings let the engine use, "CUDA0: NVIDIA H100", with commas; empty: none.
std::string engine_devices(const EngineSettings& settings);

}  // namespace evictsim::traces::capture

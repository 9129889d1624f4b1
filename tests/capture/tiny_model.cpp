#include "tests/capture/tiny_model.h"

#include <fmt/format.h>
#include <ggml.h>
#include <gguf.h>

#include <cmath>
#include <memory>
#include <random>
#include <stdexcept>

namespace evictsim::tests {
namespace {

class GgufBuilder {
 public:
  GgufBuilder()
      : file_(gguf_init_empty(), gguf_free),
        tensors_(ggml_init({.mem_size = std::size_t{16} << 20, .mem_buffer = nullptr, .no_alloc = false}), ggml_free) {}

  gguf_context* file() { return file_.get(); }

  // A tensor with entries around `mean`; ggml writes the fastest dimension first.
  void add(const std::string& name, std::int64_t columns, std::int64_t rows, float mean, float deviation) {
    ggml_tensor* tensor = rows == 1 ? ggml_new_tensor_1d(tensors_.get(), GGML_TYPE_F32, columns)
                                    : ggml_new_tensor_2d(tensors_.get(), GGML_TYPE_F32, columns, rows);
    ggml_set_name(tensor, name.c_str());
    std::vector<float>& values = weights_[name];
    // Sums of uniform numbers are the same on every standard library, unlike std::normal_distribution.
    for (std::int64_t i = 0; i < columns * rows; ++i) {
      float sum = 0;
      for (int term = 0; term < 4; ++term) sum += static_cast<float>(random_() >> 8U) * 0x1p-24F - 0.5F;
      values.push_back(mean + deviation * sum * std::sqrt(3.0F));
    }
    std::copy(values.begin(), values.end(), static_cast<float*>(tensor->data));
    gguf_add_tensor(file_.get(), tensor);
  }

  TinyWeights write(const std::filesystem::path& path) {
    if (!gguf_write_to_file(file_.get(), path.c_str(), false))
      throw std::runtime_error("cannot write " + path.string());
    return std::move(weights_);
  }

 private:
  std::unique_ptr<gguf_context, void (*)(gguf_context*)> file_;
  std::unique_ptr<ggml_context, void (*)(ggml_context*)> tensors_;
  std::mt19937 random_{20240917};
  TinyWeights weights_;
};

void add_tokenizer(gguf_context* file) {
  std::vector<std::string> texts = {"<unk>", "<s>", "</s>"};
  std::vector<std::int32_t> types = {2, 3, 3};  // unknown, control, control
  for (int byte = 0; byte < 256; ++byte) {
    texts.push_back(fmt::format("<0x{:02X}>", byte));
    types.push_back(6);  // byte
  }
  texts.emplace_back("\xE2\x96\x81");  // the blank of this kind of tokenizer
  types.push_back(1);
  std::vector<const char*> pointers;
  for (const std::string& text : texts) pointers.push_back(text.c_str());
  const std::vector<float> scores(texts.size(), 0.0F);
  gguf_set_val_str(file, "tokenizer.ggml.model", "llama");
  gguf_set_arr_str(file, "tokenizer.ggml.tokens", pointers.data(), pointers.size());
  gguf_set_arr_data(file, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores.data(), scores.size());
  gguf_set_arr_data(file, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types.data(), types.size());
  gguf_set_val_u32(file, "tokenizer.ggml.bos_token_id", 1);
  gguf_set_val_u32(file, "tokenizer.ggml.eos_token_id", 2);
  gguf_set_val_bool(file, "tokenizer.ggml.add_bos_token", false);
  gguf_set_val_bool(file, "tokenizer.ggml.add_space_prefix", false);
}

void add_settings(gguf_context* file, const TinyModel& model) {
  const auto key = [&](const char* name) { return model.architecture + "." + name; };
  const auto number = [&](const char* name, int value) {
    gguf_set_val_u32(file, key(name).c_str(), static_cast<std::uint32_t>(value));
  };
  gguf_set_val_str(file, "general.architecture", model.architecture.c_str());
  gguf_set_val_str(file, "general.name", "tiny random model");
  number("context_length", model.context);
  number("embedding_length", model.hidden);
  number("block_count", model.layers);
  number("feed_forward_length", 2 * model.hidden);
  number("attention.head_count", model.query_heads);
  number("attention.head_count_kv", model.kv_heads);
  number("attention.key_length", model.head_dim);
  number("attention.value_length", model.head_dim);
  number("rope.dimension_count", model.rotary_dim);
  number("vocab_size", tiny_vocabulary);
  const bool layer_norm = model.architecture == "stablelm";
  gguf_set_val_f32(file, key(layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon").c_str(),
                   1e-5F);
  if (layer_norm) gguf_set_val_bool(file, key("use_parallel_residual").c_str(), false);
  gguf_set_val_f32(file, key("rope.freq_base").c_str(), model.rope_base);
  if (model.architecture == "gemma2") {
    gguf_set_val_f32(file, key("attn_logit_softcapping").c_str(), 3);
    gguf_set_val_f32(file, key("final_logit_softcapping").c_str(), 20);
    number("attention.sliding_window", model.sliding_window);
    if (model.sliding_pattern) {
      std::vector<std::int8_t> pattern;
      for (int layer = 0; layer < model.layers; ++layer) pattern.push_back(layer % 2 == 0 ? 1 : 0);
      gguf_set_arr_data(file, key("attention.sliding_window_pattern").c_str(), GGUF_TYPE_BOOL, pattern.data(),
                        pattern.size());
    }
  }
  if (model.yarn_factor > 0) {
    gguf_set_val_str(file, key("rope.scaling.type").c_str(), "yarn");
    gguf_set_val_f32(file, key("rope.scaling.factor").c_str(), model.yarn_factor);
    number("rope.scaling.original_context_length", model.context / 4);
  }
}

}  // namespace

TinyWeights write_tiny_model(const std::filesystem::path& path, const TinyModel& model) {
  GgufBuilder builder;
  add_settings(builder.file(), model);
  if (model.tokenizer) {
    add_tokenizer(builder.file());
  } else {
    gguf_set_val_str(builder.file(), "tokenizer.ggml.model", "no_vocab");
  }
  if (!model.chat_template.empty()) {
    gguf_set_val_str(builder.file(), "tokenizer.chat_template", model.chat_template.c_str());
  }
  const int hidden = model.hidden, queries = model.query_heads * model.head_dim, keys = model.kv_heads * model.head_dim;
  const bool fused = model.architecture == "phi3";
  const float scale = 1.0F / std::sqrt(static_cast<float>(hidden));
  builder.add("token_embd.weight", hidden, tiny_vocabulary, 0, 1);
  const bool layer_norm = model.architecture == "stablelm";
  const auto add_norm = [&](const std::string& name) {
    builder.add(name + ".weight", hidden, 1, 1, 0.2F);
    if (layer_norm) builder.add(name + ".bias", hidden, 1, 0, 0.1F);
  };
  add_norm("output_norm");
  if (model.architecture != "gemma2") builder.add("output.weight", hidden, tiny_vocabulary, 0, 3 * scale);
  if (model.rope_divisors) builder.add("rope_freqs.weight", model.rotary_dim / 2, 1, 4, 1);
  for (int layer = 0; layer < model.layers; ++layer) {
    const auto add = [&](const char* name, int columns, int rows, float mean, float deviation) {
      builder.add(fmt::format("blk.{}.{}", layer, name), columns, rows, mean, deviation);
    };
    add_norm(fmt::format("blk.{}.attn_norm", layer));
    if (fused) {
      add("attn_qkv.weight", hidden, queries + 2 * keys, 0, 2 * scale);
    } else {
      add("attn_q.weight", hidden, queries, 0, 2 * scale);
      add("attn_k.weight", hidden, keys, 0, 2 * scale);
      add("attn_v.weight", hidden, keys, 0, scale);
    }
    if (model.architecture == "qwen2") {
      add("attn_q.bias", queries, 1, 0, 0.5F);
      add("attn_k.bias", keys, 1, 0, 0.5F);
      add("attn_v.bias", keys, 1, 0, 0.5F);
    }
    add("attn_output.weight", queries, hidden, 0, scale);
    add_norm(fmt::format("blk.{}.ffn_norm", layer));
    if (model.architecture == "gemma2") {
      add_norm(fmt::format("blk.{}.post_attention_norm", layer));
      add_norm(fmt::format("blk.{}.post_ffw_norm", layer));
    }
    if (!fused) add("ffn_gate.weight", hidden, 2 * hidden, 0, scale);
    add("ffn_up.weight", hidden, fused ? 4 * hidden : 2 * hidden, 0, scale);
    add("ffn_down.weight", 2 * hidden, hidden, 0, scale);
  }
  return builder.write(path);
}

std::vector<std::int32_t> tiny_tokens(const std::string& text) {
  std::vector<std::int32_t> tokens;
  for (const char letter : text) tokens.push_back(static_cast<unsigned char>(letter) + first_byte);
  return tokens;
}

}  // namespace evictsim::tests

// Is a model's config.json from Hugging Face understood, with the same sizes as the description that comes with us?
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "models/llm.h"
#include "models/llm_config.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::models;
namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

const fs::path scratch = EVICTSIM_TEST_SCRATCH;

fs::path write(const Json& object, const std::string& name = "mine/config.json") {
  const fs::path file = scratch / name;
  fs::create_directories(file.parent_path());
  std::ofstream(file) << object.dump();
  return file;
}

Llm read(const Json& object) { return find_llm(write(object).string()); }

Llm built_in(const std::string& name) {
  setenv("EVICTSIM_DATA", EVICTSIM_SOURCE_DIR "/models", 1);
  return find_llm(name);
}

void same(const Json& config, const std::string& name) {
  CAPTURE(name);
  const Llm found = read(config), expected = built_in(name);
  CHECK(found.hidden_size == expected.hidden_size);
  CHECK(found.vocabulary == expected.vocabulary);
  CHECK(found.longest_context == expected.longest_context);
  CHECK(found.learned_positions == expected.learned_positions);
  CHECK(found.tied_embeddings == expected.tied_embeddings);
  CHECK(found.norms_per_layer == expected.norms_per_layer);
  CHECK(found.norm_bias == expected.norm_bias);
  CHECK(found.weights == expected.weights);
  REQUIRE(found.layers.size() == expected.layers.size());
  for (std::size_t i = 0; i < found.layers.size(); ++i) {
    CAPTURE(i);
    CHECK(found.layers[i] == expected.layers[i]);
  }
  CHECK(parameters(found) == parameters(expected));
}

void refused(const Json& config, ErrorCode code, const std::string& part) {
  CAPTURE(config.dump(), part);
  try {
    read(config);
  } catch (const Error& error) {
    CHECK(error.code() == code);
    CHECK_THAT(error.what(), Catch::Contains("config.json") && Catch::Contains(part));
    return;
  }
  FAIL("no error");
}

const Json llama = Json::parse(R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": false, "mlp_bias": false,
  "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_hidden_layers": 32,
  "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072, "tie_word_embeddings": false,
  "torch_dtype": "bfloat16", "rope_scaling": {"factor": 8.0}})");

const Json deepseek = Json::parse(R"({
  "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
  "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "n_routed_experts": 256,
  "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3, "moe_layer_freq": 1,
  "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
  "vocab_size": 129280, "max_position_embeddings": 163840, "num_nextn_predict_layers": 1,
  "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}})");

const Json qwen_moe = Json::parse(R"({
  "model_type": "qwen3_moe", "attention_bias": false, "decoder_sparse_step": 1, "head_dim": 128, "hidden_size": 2048,
  "intermediate_size": 6144, "max_position_embeddings": 40960, "mlp_only_layers": [], "moe_intermediate_size": 768,
  "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
  "num_key_value_heads": 4, "sliding_window": null, "tie_word_embeddings": false, "use_sliding_window": false,
  "vocab_size": 151936})");

const Json oss = Json::parse(R"({
  "model_type": "gpt_oss", "attention_bias": true, "head_dim": 64, "hidden_size": 2880, "intermediate_size": 2880,
  "max_position_embeddings": 131072, "num_attention_heads": 64, "num_experts_per_tok": 4, "num_hidden_layers": 24,
  "num_key_value_heads": 8, "num_local_experts": 32, "sliding_window": 128, "tie_word_embeddings": false,
  "vocab_size": 201088, "quantization_config": {"quant_method": "mxfp4",
  "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"]}})");

const Json gemma2 = Json::parse(R"({
  "model_type": "gemma2", "head_dim": 256, "hidden_size": 3584, "intermediate_size": 14336,
  "max_position_embeddings": 8192, "num_attention_heads": 16, "num_hidden_layers": 42, "num_key_value_heads": 8,
  "sliding_window": 4096, "vocab_size": 256000})");

Json with(Json object, const std::string& key, const Json& value) {
  object[key] = value;
  return object;
}

Json without(Json object, const std::string& key) {
  object.erase(key);
  return object;
}

}  // namespace

TEST_CASE("configs give the sizes of the descriptions") {
  same(llama, "llama-3.1-8b");
  same(deepseek, "deepseek-v3");
  same(qwen_moe, "qwen3-30b-a3b");
  same(oss, "gpt-oss-20b");
  same(gemma2, "gemma-2-9b");
  same(Json::parse(R"({"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "sliding_window": 4096, "tie_word_embeddings": false, "vocab_size": 32000})"),
       "mistral-7b");
  same(Json::parse(R"({"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": null, "vocab_size": 32000})"),
       "mixtral-8x7b");
  same(Json::parse(R"({"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944,
    "max_position_embeddings": 32768, "max_window_layers": 28, "num_attention_heads": 28, "num_hidden_layers": 28,
    "num_key_value_heads": 4, "sliding_window": 131072, "use_sliding_window": false, "vocab_size": 152064})"),
       "qwen2.5-7b");
  same(Json::parse(R"({"model_type": "qwen3", "attention_bias": false, "head_dim": 128, "hidden_size": 5120,
    "intermediate_size": 25600, "max_position_embeddings": 40960, "num_attention_heads": 64, "num_hidden_layers": 64,
    "num_key_value_heads": 8, "vocab_size": 151936})"),
       "qwen3-32b");
  same(Json::parse(R"({"model_type": "minimax_m2", "head_dim": 128, "hidden_size": 3072, "intermediate_size": 1536,
    "max_position_embeddings": 196608, "num_attention_heads": 48, "num_hidden_layers": 62, "num_key_value_heads": 8,
    "num_local_experts": 256, "num_experts_per_tok": 8, "use_qk_norm": true, "use_routing_bias": true,
    "vocab_size": 200064, "quantization_config": {"quant_method": "fp8", "modules_to_not_convert": ["gate"]}})"),
       "minimax-m2.5");
  same(Json::parse(R"({"model_type": "glm_moe_dsa", "num_hidden_layers": 78, "hidden_size": 6144,
    "num_attention_heads": 64, "num_key_value_heads": 64, "head_dim": 64, "intermediate_size": 12288,
    "vocab_size": 154880, "max_position_embeddings": 202752, "n_routed_experts": 256, "n_shared_experts": 1,
    "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "first_k_dense_replace": 3, "kv_lora_rank": 512,
    "q_lora_rank": 2048, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256, "index_topk": 2048,
    "index_n_heads": 32, "index_head_dim": 128})"),
       "glm-5");
  same(Json::parse(R"({"model_type": "opt", "hidden_size": 5120, "ffn_dim": 20480, "num_attention_heads": 40,
    "num_hidden_layers": 40, "vocab_size": 50272, "max_position_embeddings": 2048, "word_embed_proj_dim": 5120})"),
       "opt-13b");
  same(Json::parse(R"({"model_type": "qwen3_next", "full_attention_interval": 4, "head_dim": 256, "hidden_size": 2048,
    "intermediate_size": 5120, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
    "linear_num_value_heads": 32, "linear_value_head_dim": 128, "max_position_embeddings": 262144,
    "moe_intermediate_size": 512, "num_attention_heads": 16, "num_experts": 512, "num_experts_per_tok": 10,
    "num_hidden_layers": 48, "num_key_value_heads": 2, "shared_expert_intermediate_size": 512, "vocab_size": 151936})"),
       "qwen3-next-80b-a3b");
}

TEST_CASE("the language model of a multimodal one counts") {
  same(Json::parse(R"({"model_type": "kimi_k25", "vision_config": {"hidden_size": 1152}, "tie_word_embeddings": false,
    "text_config": {"model_type": "kimi_k2", "num_hidden_layers": 61, "hidden_size": 7168, "num_attention_heads": 64,
      "num_key_value_heads": 64, "intermediate_size": 18432, "vocab_size": 163840, "max_position_embeddings": 262144,
      "n_routed_experts": 384, "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
      "first_k_dense_replace": 1, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
      "qk_rope_head_dim": 64, "v_head_dim": 128,
      "quantization_config": {"quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
        "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*"]}}})"),
       "kimi-k2.5");
  Json qwen = Json::parse(R"({"model_type": "qwen3_5_moe", "tie_word_embeddings": false,
    "text_config": {"model_type": "qwen3_5_moe_text", "attn_output_gate": true, "head_dim": 256, "hidden_size": 4096,
      "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 64,
      "linear_value_head_dim": 128, "max_position_embeddings": 262144, "mlp_only_layers": [],
      "moe_intermediate_size": 1024, "num_attention_heads": 32, "num_experts": 512, "num_experts_per_tok": 10,
      "num_hidden_layers": 60, "num_key_value_heads": 2, "shared_expert_intermediate_size": 1024,
      "vocab_size": 248320}})");
  for (int i = 0; i < 60; ++i)
    qwen["text_config"]["layer_types"].push_back(i % 4 == 3 ? "full_attention" : "linear_attention");
  same(qwen, "qwen3.5-397b-a17b");
  // Gemma 3 leaves out what equals its library's defaults, and says its pattern or does not.
  const Json gemma = Json::parse(R"({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text",
    "hidden_size": 5376, "intermediate_size": 21504, "num_attention_heads": 32, "num_hidden_layers": 62,
    "num_key_value_heads": 16, "head_dim": 128, "sliding_window": 1024}})");
  same(gemma, "gemma-3-27b");
}

TEST_CASE("differences within an architecture are seen") {
  Llm llm = read(with(without(qwen_moe, "head_dim"), "mlp_only_layers", {0, 2}));
  CHECK(llm.layers[0].attention.head_dim == 64);
  CHECK(llm.layers[0].feed_forward.intermediate == 6144);
  CHECK(llm.layers[1].feed_forward.experts == 128);
  CHECK(llm.layers[2].feed_forward.experts == 0);
  Json sliding = with(qwen_moe, "use_sliding_window", true);
  sliding["sliding_window"] = 512;
  sliding["max_window_layers"] = 40;
  llm = read(sliding);
  CHECK(llm.layers[39].attention.kind == AttentionKind::full);
  CHECK(llm.layers[40].attention.window == 512);
  CHECK(read(with(llama, "attention_bias", true)).layers[0].attention.output_bias);
  CHECK(read(without(deepseek, "q_lora_rank")).layers[0].attention.query_rank == 0);
  CHECK(read(with(deepseek, "q_lora_rank", nullptr)).layers[0].attention.query_rank == 0);
  Json types = gemma2;
  for (int i = 0; i < 42; ++i) types["layer_types"].push_back(i == 5 ? "sliding_attention" : "full_attention");
  llm = read(types);
  CHECK(llm.layers[5].attention.kind == AttentionKind::sliding);
  CHECK(llm.layers[4].attention.kind == AttentionKind::full);
  CHECK(llm.name == "mine");
}

TEST_CASE("quantised weights are recognised") {
  const auto types = [](const char* text) {
    return read(with(llama, "quantization_config", Json::parse(text))).weights;
  };
  const auto all = [](ElementType type) { return WeightTypes{type, type, type}; };
  CHECK(types(R"({"quant_method": "fp8"})") == all(ElementType::fp8));
  CHECK(types(R"({"quant_method": "awq", "bits": 4, "group_size": 128})") == all(ElementType::int4));
  CHECK(types(R"({"quant_method": "gptq", "bits": 8})") == all(ElementType::int8));
  CHECK(types(R"({"quant_method": "modelopt", "quant_algo": "NVFP4"})") == all(ElementType::nvfp4));
  CHECK(types(R"({"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]})") == all(ElementType::fp8));
  CHECK(types(R"({"quant_method": "compressed-tensors",
    "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}}, "ignore": ["re:.*self_attn.*"]})") ==
        WeightTypes{ElementType::bf16, ElementType::fp8, ElementType::fp8});
  for (const char* text : {R"({"quant_method": "bitsandbytes"})", R"({"quant_method": "gptq", "bits": 3})",
                           R"({"quant_method": 5})", R"({})", R"([1])", R"("fp8")",
                           R"({"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": 3}}})"}) {
    refused(with(llama, "quantization_config", Json::parse(text)), ErrorCode::unsupported, "quantization_config");
  }
}

TEST_CASE("configs that are not understood are refused with what would be") {
  refused(with(llama, "model_type", "mamba2"), ErrorCode::unsupported, "model_type = mamba2");
  refused(with(llama, "model_type", "mamba2"), ErrorCode::unsupported, "qwen3_next");
  for (const char* key : {"hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"})
    refused(without(llama, key), ErrorCode::missing_data, key);
  refused(with(llama, "model_type", 7), ErrorCode::wrong_type, "model_type");
  refused(with(llama, "num_hidden_layers", 0), ErrorCode::invalid_value, "num_hidden_layers = 0");
  refused(with(llama, "num_hidden_layers", 100000000), ErrorCode::invalid_value, "num_hidden_layers");
  refused(with(llama, "num_hidden_layers", "32"), ErrorCode::wrong_type, "num_hidden_layers");
  refused(with(llama, "num_attention_heads", 31), ErrorCode::invalid_value, "num_attention_heads = 31");
  refused(with(llama, "num_key_value_heads", 5), ErrorCode::invalid_value, "kv_heads = 5");
  refused(with(llama, "hidden_size", 9e15), ErrorCode::invalid_value, "hidden_size");
  refused(with(llama, "attention_bias", "no"), ErrorCode::wrong_type, "attention_bias");
  refused(with(qwen_moe, "mlp_only_layers", "all"), ErrorCode::invalid_value, "mlp_only_layers");
  refused(with(qwen_moe, "num_experts_per_tok", 500), ErrorCode::invalid_value, "experts_per_token = 500");
  refused(with(gemma2, "layer_types", {"full_attention"}), ErrorCode::invalid_value, "layer_types");
  refused(without(gemma2, "sliding_window"), ErrorCode::missing_data, "sliding_window");
  refused(without(deepseek, "kv_lora_rank"), ErrorCode::missing_data, "kv_lora_rank");
  refused(with(deepseek, "index_topk", 2048), ErrorCode::missing_data, "index_n_heads");
  CHECK_THROWS_AS(read_llm_config(scratch / "no such file"), Error);
  for (const std::string& type : supported_model_types()) {
    CAPTURE(type);
    CHECK_THROWS_WITH(read({{"model_type", type}}), Catch::Contains("hidden_size"));
  }
}

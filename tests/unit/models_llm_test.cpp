// Do descriptions of language models give the published parameters, KV bytes and FLOPs, and are wrong ones refused?
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "models/data_files.h"
#include "models/deployment.h"
#include "models/llm.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::models;
namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

const fs::path scratch = EVICTSIM_TEST_SCRATCH;

Llm built_in(const std::string& name) {
  setenv("EVICTSIM_DATA", EVICTSIM_SOURCE_DIR "/models", 1);
  return find_llm(name);
}

fs::path write(const Json& object, const std::string& name = "some.json") {
  const fs::path file = scratch / name;
  fs::create_directories(file.parent_path());
  std::ofstream(file) << object.dump();
  return file;
}

void refused(const Json& object, ErrorCode code, const std::string& field) {
  CAPTURE(object.dump(), field);
  const std::string file = write(object).string();
  try {
    find_llm(file);
  } catch (const Error& error) {
    CHECK(error.code() == code);
    CHECK_THAT(error.what(), Catch::Contains("some.json") && Catch::Contains(field));
    return;
  }
  FAIL("no error");
}

Json described(const std::string& name) {
  std::ifstream stream(EVICTSIM_SOURCE_DIR "/models/llms/" + name + ".json");
  return Json::parse(stream);
}

double billions(std::int64_t count) { return static_cast<double>(count) / 1e9; }

}  // namespace

TEST_CASE("parameters are the published ones") {
  struct Published {
    const char* name;
    double total;   ///< billions, as announced or summed over the weight files
    double active;  ///< 0: not a mixture of experts
    bool counts_embedding;
  };
  // Announced with three digits, so within 0.5 %; active parameters are announced with one or two digits.
  for (const Published& one : {Published{"llama-3.1-8b", 8.03, 0, false},
                               {"llama-3.1-70b", 70.6, 0, false},
                               {"llama-3.1-405b", 405.9, 0, false},
                               {"llama-3.2-1b", 1.236, 0, false},
                               {"llama-3.2-3b", 3.213, 0, false},
                               {"llama-2-7b", 6.738, 0, false},
                               {"llama-2-13b", 13.02, 0, false},
                               {"llama-2-70b", 68.98, 0, false},
                               {"qwen3-0.6b", 0.596, 0, false},
                               {"qwen3-1.7b", 1.72, 0, false},
                               {"qwen3-4b", 4.02, 0, false},
                               {"qwen3-8b", 8.19, 0, false},
                               {"qwen3-14b", 14.77, 0, false},
                               {"qwen3-32b", 32.8, 0, false},
                               {"qwen3-30b-a3b", 30.53, 3.35, true},
                               {"qwen3-235b-a22b", 235.1, 22.2, true},
                               {"qwen3-next-80b-a3b", 79.7, 0, false},
                               {"qwen3.5-397b-a17b", 397, 17, true},
                               {"deepseek-v3", 671, 36.6, false},
                               {"deepseek-r1", 671, 36.6, false},
                               {"gpt-oss-20b", 20.91, 3.61, false},
                               {"gpt-oss-120b", 116.83, 5.13, false},
                               {"kimi-k2.5", 1026, 32, false},
                               {"glm-5", 744, 40, false},
                               {"minimax-m2.5", 228.7, 10, false},
                               {"mistral-7b", 7.24, 0, false},
                               {"mistral-7b-v0.3", 7.25, 0, false},
                               {"mixtral-8x7b", 46.7, 12.9, true},
                               {"gemma-2-9b", 9.24, 0, false},
                               {"gemma-3-27b", 27.0, 0, false},
                               {"qwen2.5-7b", 7.62, 0, false},
                               {"qwen2.5-32b", 32.8, 0, false},
                               {"qwen2.5-72b", 72.7, 0, false},
                               {"llama-3-8b", 8.03, 0, false},
                               {"opt-6.7b", 6.66, 0, false},
                               {"opt-13b", 12.85, 0, false},
                               {"opt-30b", 29.97, 0, false},
                               {"opt-66b", 65.7, 0, false},
                               {"opt-175b", 175, 0, false},
                               {"smollm2-135m", 0.1345, 0, false}}) {
    CAPTURE(one.name);
    const Llm llm = built_in(one.name);
    CHECK(billions(parameters(llm).total()) == Approx(one.total).epsilon(0.005));
    const ParameterCount active = active_parameters(llm);
    if (one.active > 0) {
      const std::int64_t counted = active.total() + (one.counts_embedding ? parameters(llm).embedding : 0);
      CHECK(billions(counted) == Approx(one.active).epsilon(0.05));
    } else if (llm.layers.front().feed_forward.experts == 0) {
      // What a dense model leaves out are the embedding's rows, unless they are the output head too.
      const ParameterCount all = parameters(llm);
      CHECK(active.total() == all.total() - all.embedding + (all.output_head == 0 ? active.output_head : 0));
    }
  }
}

TEST_CASE("published parts of parameters come out") {
  // Model card of gpt-oss, table 1, in billions: MLP 114.71, attention 0.96, embedding and unembedding 1.16.
  const ParameterCount oss = parameters(built_in("gpt-oss-120b"));
  CHECK(billions(oss.routed_experts + oss.router) == Approx(114.71).margin(0.005));
  CHECK(billions(oss.attention) == Approx(0.96).margin(0.005));
  CHECK(billions(oss.embedding + oss.output_head) == Approx(1.16).margin(0.005));
  // DeepSeek-V3, notes to its weights: 0.9 billion in the output head.
  CHECK(billions(parameters(built_in("deepseek-v3")).output_head) == Approx(0.9).margin(0.05));
  // Qwen3-30B-A3B, report, table 2 and its model card: 29.9 billion besides the embeddings.
  const ParameterCount qwen = parameters(built_in("qwen3-30b-a3b"));
  CHECK(billions(qwen.total() - qwen.embedding - qwen.output_head) == Approx(29.9).margin(0.05));
}

TEST_CASE("every description that comes with evictsim is complete and found by each of its names") {
  setenv("EVICTSIM_DATA", EVICTSIM_SOURCE_DIR "/models", 1);
  std::set<std::string> seen;
  for (const std::string& name : data_names("llms")) {
    CAPTURE(name);
    const Llm llm = find_llm(name);
    CHECK(llm.name == name);
    CHECK(llm.longest_context > 0);
    CHECK_FALSE(llm.huggingface_names.empty());
    for (const std::string& repository : llm.huggingface_names) {
      CAPTURE(repository);
      CHECK(seen.insert(repository).second);
      CHECK(find_llm(repository).name == name);
    }
  }
  for (const auto& [asked, name] :
       std::map<std::string, std::string>{{"meta-llama/Llama-3.1-70B", "llama-3.1-70b"},
                                          {"nvidia/Llama-3.1-8B-Instruct-FP8", "llama-3.1-8b"},
                                          {"Llama-3.1-8B", "llama-3.1-8b"},
                                          {"openai/gpt-oss-120b", "gpt-oss-120b"},
                                          {"zhipuai/GLM-5", "glm-5"},
                                          {"deepseek-ai/deepseek-r1", "deepseek-r1"},
                                          {"nvidia/DeepSeek-V3.1-NVFP4", "deepseek-v3"},
                                          {"Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b"},
                                          {"MiniMaxAI/MiniMax-M2.5", "minimax-m2.5"}}) {
    CHECK(find_llm(asked).name == name);
  }
  CHECK_THROWS_WITH(find_llm("meta-llama/Llama-9"), Catch::Contains("Llama-9") && Catch::Contains("smollm2-135m"));
  CHECK_THROWS_WITH(find_llm("no-such.json"), Catch::Contains("no-such.json"));
}

TEST_CASE("KV bytes per token are the published ones") {
  const auto bytes = [](const char* name, int tensor_parallel = 1, ElementType kv = ElementType::bf16) {
    const Llm llm = built_in(name);
    Deployment layout;
    layout.tensor_parallel = tensor_parallel;
    layout.kv = kv;
    return kv_bytes_per_token(llm, checked(llm, layout));
  };
  CHECK(bytes("llama-3.1-8b") == 131072);
  CHECK(bytes("llama-3.1-70b") == 327680);
  CHECK(bytes("qwen3-32b") == 262144);
  CHECK(bytes("qwen3-8b") == 147456);
  CHECK(bytes("deepseek-v3") == 61 * (512 + 64) * 2);  // 70,272, DeepSeek-V3's 70 KB
  CHECK(bytes("llama-3.1-8b", 1, ElementType::fp8) == 65536);
  // Eight KV heads on 2 and 8 GPUs are shared out; on 16 each is stored twice.
  CHECK(bytes("llama-3.1-70b", 2) == 163840);
  CHECK(bytes("llama-3.1-70b", 8) == 40960);
  CHECK(bytes("llama-3.1-70b", 16) == 40960);
  // The compressed vector is needed by every head, so by every GPU.
  CHECK(bytes("deepseek-v3", 8) == 70272);
  // 15 of 60 layers hold keys and values, the others a state of 45 x (64 x 128 x 128 f32 + 3 x 12288 bf16).
  CHECK(bytes("qwen3.5-397b-a17b") == 15 * 2 * 256 * 2 * 2);
  CHECK(state_bytes_per_sequence(built_in("qwen3.5-397b-a17b")) == 45 * (64 * 128 * 128 * 4 + 3 * 12288 * 2));
  // The indexer's keys of sparse attention are stored beside the compressed vectors.
  CHECK(bytes("glm-5") == 78 * (512 + 64 + 128) * 2);
}

TEST_CASE("windows, indexers and states bound what is held and read") {
  const Llm gemma = built_in("gemma-3-27b");  // 10 of 62 layers are full, windows of 1024
  CHECK(mean_entries_held(gemma, 1000) == 1000);
  CHECK(mean_entries_held(gemma, 11024) == Approx(1024 + 10000.0 * 10 / 62));
  CHECK(mean_entries_read(gemma, 11024) == mean_entries_held(gemma, 11024));
  CHECK(context_bends(gemma) == std::vector<std::int64_t>{1024});
  const Llm glm = built_in("glm-5");
  CHECK(mean_entries_held(glm, 10000) == 10000);
  CHECK(mean_entries_read(glm, 2000) == Approx(2000));
  CHECK(mean_entries_read(glm, 10000) == Approx((2048.0 * 576 + 10000.0 * 128) / 704));
  CHECK(context_bends(glm) == std::vector<std::int64_t>{2048});
  CHECK(context_bends(built_in("llama-3.1-8b")).empty());
  // Straight between the bends.
  for (const Llm& llm : {gemma, glm, built_in("gpt-oss-20b")}) {
    for (const std::int64_t context : {100, 500, 3000, 50000}) {
      const double left = mean_entries_read(llm, context), middle = mean_entries_read(llm, context + 10);
      CHECK(mean_entries_read(llm, context + 20) - middle == Approx(middle - left));
    }
  }
}

TEST_CASE("a batch touches the expected number of experts") {
  LayerFeedForward f;
  CHECK(expected_experts(f, 5) == 0);
  f.experts = 128;
  f.experts_per_token = 8;
  CHECK(expected_experts(f, 0) == 0);
  CHECK(expected_experts(f, 1) == Approx(8));
  CHECK(expected_experts(f, 1e9) == Approx(128));
  // All pairs of draws of two out of four, by hand: 6 x 6 pairs touch 2 (6 times), 3 (24 times) or 4 (6 times).
  f.experts = 4;
  f.experts_per_token = 2;
  CHECK(expected_experts(f, 2) == Approx((6 * 2 + 24 * 3 + 6 * 4) / 36.0));
}

TEST_CASE("FLOPs follow from the matrices") {
  const Llm llama = built_in("llama-3.1-8b");
  const double matrices = 32.0 * (4096.0 * 128 * (32 + 8 + 8) + 4096.0 * 4096 + 3.0 * 4096 * 14336);
  CHECK(projection_flops_per_token(llama) == Approx(2 * matrices));
  CHECK(output_head_flops(llama) == Approx(2.0 * 4096 * 128256));
  const LayerAttention heads = llama.layers[0].attention;
  CHECK(attention_flops_per_pair(heads, true) == 4.0 * 32 * 128);
  const LayerAttention mla = built_in("deepseek-v3").layers[0].attention;
  CHECK(attention_flops_per_pair(mla, false) == 2.0 * 128 * (192 + 128));
  CHECK(attention_flops_per_pair(mla, true) == 2.0 * 128 * (576 + 512));
  const Llm hybrid = built_in("qwen3.5-397b-a17b");
  CHECK(attention_flops_per_pair(hybrid.layers[0].attention, true) == 0);
  CHECK(linear_state_flops_per_token(hybrid.layers[0].attention) == 7.0 * 64 * 128 * 128);
  CHECK(linear_state_flops_per_token(hybrid.layers[3].attention) == 0);
  double sum = 0;
  for (const LlmLayer& layer : hybrid.layers) sum += projection_flops_per_token(hybrid, layer);
  CHECK(sum == Approx(projection_flops_per_token(hybrid)));
}

TEST_CASE("element types have names and bytes") {
  CHECK(bytes_of(ElementType::bf16) == 2);
  CHECK(bytes_of(ElementType::mxfp4) == 17.0 / 32);
  CHECK(bytes_of(ElementType::nvfp4) == 9.0 / 16);
  for (const char* name : {"f32", "bf16", "f16", "fp8", "int8", "nvfp4", "mxfp4", "int4", "int4_32"})
    CHECK(to_string(element_type(name, "weights")) == std::string(name));
  CHECK(element_type("fp4", "weights") == ElementType::nvfp4);
  CHECK_THROWS_WITH(element_type("fp3", "weights"), Catch::Contains("weights = fp3") && Catch::Contains("nvfp4"));
}

TEST_CASE("a user adds a model by a file") {
  Json object = described("llama-3.1-8b");
  object["name"] = "mine";
  object["layers"][0]["count"] = 3;
  const Llm llm = find_llm(write(object, "mine.json").string());
  CHECK(llm.name == "mine");
  CHECK(llm.layers.size() == 3);
}

TEST_CASE("wrong descriptions are refused with file and field") {
  const Json good = described("deepseek-v3"), sliding = described("gpt-oss-20b");
  const auto with = [](Json object, const char* pointer, const Json& value) {
    object[Json::json_pointer(pointer)] = value;
    return object;
  };
  const auto without = [](Json object, const char* parent, const char* key) {
    object[Json::json_pointer(parent)].erase(key);
    return object;
  };
  for (const char* key : {"name", "sources", "hidden_size", "vocabulary", "attention", "feed_forward", "layers"})
    refused(without(good, "", key), ErrorCode::missing_data, key);
  refused(without(good, "/attention/latent", "latent_rank"), ErrorCode::missing_data, "attention.latent.latent_rank");
  refused(without(good, "/feed_forward/dense", "intermediate"), ErrorCode::missing_data,
          "feed_forward.dense.intermediate");
  refused(without(sliding, "/attention/sliding", "window"), ErrorCode::missing_data, "attention.sliding.window");
  refused(with(good, "/format", "other"), ErrorCode::invalid_value, "format");
  refused(with(good, "/version", 2), ErrorCode::unsupported_version, "version");
  refused(with(good, "/sources", Json::array()), ErrorCode::invalid_value, "sources");
  refused(with(good, "/hidden_size", -7168), ErrorCode::invalid_value, "hidden_size = -7168");
  refused(with(good, "/hidden_size", 1e15), ErrorCode::invalid_value, "hidden_size");
  refused(with(good, "/hidden_size", "wide"), ErrorCode::wrong_type, "hidden_size");
  refused(with(good, "/tied_embeddings", 1), ErrorCode::wrong_type, "tied_embeddings");
  refused(with(good, "/hidden_sise", 1), ErrorCode::unknown_name, "hidden_sise");
  refused(with(good, "/attention/latent/window", 128), ErrorCode::unknown_name, "attention.latent.window");
  refused(with(good, "/attention/latent/kind", "flat"), ErrorCode::invalid_value, "attention.latent.kind");
  refused(with(good, "/weights/experts", "fp3"), ErrorCode::invalid_value, "weights.experts = \"fp3\"");
  refused(with(good, "/layers/0/attention", Json::array({"other"})), ErrorCode::invalid_value, "layers[0].attention");
  refused(with(good, "/layers/0/attention", Json::array()), ErrorCode::invalid_value, "layers[0].attention");
  refused(with(good, "/layers/0/count", 5000), ErrorCode::invalid_value, "layers[0].count");
  refused(with(good, "/layers", Json::array()), ErrorCode::invalid_value, "layers");
  refused(with(good, "/attention/spare", good["attention"]["latent"]), ErrorCode::unknown_name, "attention.spare");
  refused(with(sliding, "/attention/full/kv_heads", 7), ErrorCode::invalid_value, "kv_heads = 7");
  refused(with(good, "/feed_forward/experts/experts_per_token", 257), ErrorCode::invalid_value,
          "experts_per_token = 257");
  refused(with(good, "/feed_forward/experts/experts", 1 << 20), ErrorCode::invalid_value, "experts = 1048576");
  refused(Json::array(), ErrorCode::wrong_type, "object");
}

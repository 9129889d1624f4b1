// Is a step's time the sum of its terms, exactly linear in decode entries, never shorter for more work or a faster GPU?
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "models/deployment.h"
#include "models/engine.h"
#include "models/gpu.h"
#include "models/llm.h"
#include "models/step_time.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::models;

namespace {

void use_data() { setenv("EVICTSIM_DATA", EVICTSIM_SOURCE_DIR "/models", 1); }

/// One of each architecture: dense, experts, latent attention, sparse latent attention, sliding windows, linear layers.
struct Setting {
  std::string llm, gpu, engine;
  Deployment deployment;
};

std::vector<Setting> settings() {
  Deployment one, four, experts, copies, stages;
  four.tensor_parallel = 4;
  experts.tensor_parallel = 8;
  experts.moe_expert_parallel = 8;
  copies.attention_data_parallel = 8;
  copies.moe_expert_parallel = 8;
  copies.weights = ElementType::fp8;
  stages.tensor_parallel = 2;
  stages.pipeline_parallel = 2;
  return {
      {"llama-3.1-8b", "h100-80gb-sxm", "vllm", one},       {"llama-3.1-8b", "l40s", "vllm:0.12.0", four},
      {"deepseek-v3", "h200-141gb-sxm", "sglang", experts}, {"glm-5", "b200-180gb-sxm", "sglang", copies},
      {"gpt-oss-120b", "h100-80gb-sxm", "trtllm", four},    {"qwen3.5-397b-a17b", "b300-288gb-sxm", "sglang", experts},
      {"llama-3.1-70b", "a100-80gb-sxm", "vllm", stages}};
}

StepTime step_time_of(const Setting& setting) {
  return {find_llm(setting.llm), find_gpu(setting.gpu), find_engine(setting.engine), setting.deployment};
}

StepWork some_work(std::mt19937_64& random) {
  const auto below = [&](std::int64_t most) {
    return static_cast<std::int64_t>(random() % static_cast<unsigned>(most));
  };
  StepWork work;
  work.decode_sequences = 1 + below(512);
  work.decode_entries = work.decode_sequences * (1 + below(20'000));
  work.prefill_sequences = below(4);
  if (work.prefill_sequences > 0) {
    const std::int64_t cached = below(8192), chunk = 1 + below(8192);
    work.prefill_tokens = chunk;
    work.prefill_context = cached + chunk;
    work.prefill_pairs = chunk * cached + chunk * (chunk + 1) / 2;
  }
  return work;
}

constexpr std::int64_t StepWork::*counts[] = {&StepWork::decode_sequences,  &StepWork::decode_entries,
                                              &StepWork::prefill_sequences, &StepWork::prefill_tokens,
                                              &StepWork::prefill_context,   &StepWork::prefill_pairs};

}  // namespace

TEST_CASE("a step is exactly linear in the entries that decoding sequences read") {
  use_data();
  std::mt19937_64 random(1);
  for (const Setting& setting : settings()) {
    CAPTURE(setting.llm, setting.gpu, setting.engine);
    const StepTime step_time = step_time_of(setting);
    CHECK(step_time.per_decode_entry() > 0);
    for (int round = 0; round < 50; ++round) {
      StepWork work = some_work(random);
      const std::int64_t entries = work.decode_entries;
      const Femtoseconds with = step_time.of(work);
      work.decode_entries = 0;
      CHECK(with == step_time.of(work) + step_time.per_decode_entry() * entries);
    }
  }
}

TEST_CASE("more work never takes less time") {
  use_data();
  std::mt19937_64 random(2);
  for (const Setting& setting : settings()) {
    CAPTURE(setting.llm, setting.gpu, setting.engine);
    const StepTime step_time = step_time_of(setting);
    for (int round = 0; round < 30; ++round) {
      const StepWork work = some_work(random);
      for (std::int64_t StepWork::*const count : counts) {
        StepWork more = work;
        more.*count += 1 + static_cast<std::int64_t>(random() % 1000);
        const bool shared_out = count == &StepWork::prefill_sequences && setting.deployment.attention_data_parallel > 1;
        if (!shared_out) CHECK(step_time.of(more) >= step_time.of(work));
      }
    }
    CHECK(step_time.of({}) == 0);
    CHECK(step_time.per_request() > 0);
  }
}

TEST_CASE("terms have names of their own and add up to the step") {
  use_data();
  std::mt19937_64 random(3);
  for (const Setting& setting : settings()) {
    CAPTURE(setting.llm, setting.gpu, setting.engine);
    const StepTime step_time = step_time_of(setting);
    const StepWork work = some_work(random);
    double sum = 0;
    std::vector<std::string> names;
    for (const StepTerm& term : step_time.terms(work)) {
      CHECK(term.seconds >= 0);
      CHECK(std::find(names.begin(), names.end(), term.name) == names.end());
      names.push_back(term.name);
      sum += term.seconds;
    }
    // of() rounds the constant part once and every entry once, to 1 fs.
    CHECK(std::abs(sum * 1e15 - static_cast<double>(step_time.of(work))) <
          static_cast<double>(work.decode_entries) + 1e-9 * sum * 1e15 + 1);
  }
}

TEST_CASE("a GPU with twice a rate is never slower") {
  use_data();
  std::mt19937_64 random(4);
  for (const Setting& setting : settings()) {
    CAPTURE(setting.llm, setting.gpu, setting.engine);
    const Gpu gpu = find_gpu(setting.gpu);
    Gpu memory = gpu, arithmetic = gpu, links = gpu;
    memory.memory_bytes_per_second *= 2;
    for (auto& [type, rate] : arithmetic.flops_per_second) rate *= 2;
    if (links.peer) links.peer->bytes_per_second *= 2;
    const Llm llm = find_llm(setting.llm);
    const Engine engine = find_engine(setting.engine);
    const StepTime plain(llm, gpu, engine, setting.deployment);
    for (int round = 0; round < 20; ++round) {
      const StepWork work = some_work(random);
      for (const Gpu& faster : {memory, arithmetic, links}) {
        CHECK(StepTime(llm, faster, engine, setting.deployment).of(work) <= plain.of(work));
      }
    }
  }
}

TEST_CASE("without overheads and at full rates a step takes what bytes and arithmetic take") {
  use_data();
  EngineConstants ideal;
  for (const EngineConstant& constant : engine_constants()) ideal.*constant.member = 1;
  for (const EngineConstant& constant : engine_constants()) {
    if (std::string(constant.name).ends_with("_seconds")) ideal.*constant.member = 0;
  }
  const Llm llm = find_llm("llama-3.1-8b");
  const Gpu gpu = find_gpu("h100-80gb-sxm");
  const StepTime step_time(StepShape(llm, gpu, Deployment{}), ideal);
  // One sequence: 8.03e9 parameters less the embedding's 525e6, 2 bytes each; 2 FLOPs each (gemm_overlap 1: both sums).
  const double weights = (8030261248.0 - 128256.0 * 4096) * 2 / gpu.memory_bytes_per_second;
  const double arithmetic = (8030261248.0 - 128256.0 * 4096) * 2 / gpu.flops_per_second.at("bf16");
  StepWork work;
  work.decode_sequences = 1;
  CHECK(static_cast<double>(step_time.of(work)) / 1e15 == Approx(weights + arithmetic).epsilon(1e-3));
  // Keys and values of 32 layers, 8 heads of 128, 2 bytes.
  CHECK(static_cast<double>(step_time.per_decode_entry()) / 1e15 ==
        Approx(131072 / gpu.memory_bytes_per_second).epsilon(1e-6));
  // A prompt of 1000 tokens: 4 x 32 heads x 128 FLOPs per pair and layer.
  StepWork prefill;
  prefill.prefill_sequences = 1;
  prefill.prefill_tokens = 1000;
  prefill.prefill_context = 1000;
  const Femtoseconds without = step_time.of(prefill);
  prefill.prefill_pairs = 500'500;
  CHECK(static_cast<double>(step_time.of(prefill) - without) / 1e15 ==
        Approx(500'500.0 * 32 * 4 * 32 * 128 / gpu.flops_per_second.at("bf16")).epsilon(1e-6));
}

TEST_CASE("constants that were not measured fall back to the engine's mean") {
  use_data();
  Engine engine;
  engine.constants.layer_seconds = 1e-5;
  engine.adjustments = {
      {.version = {}, .gpu = "a", .models = {}, .precision = {}, .factors = {{"host", 2.0}}},
      {.version = "1", .gpu = "a", .models = {"m", "n"}, .precision = "fp8", .factors = {{"host", 3.0}, {"kv", 50.0}}}};
  const auto layer = [&](const char* version, const char* gpu, const char* model, const char* precision) {
    engine.version = version;
    return adjusted_constants(engine, gpu, model, precision).layer_seconds;
  };
  CHECK(layer("", "b", "m", "fp8") == Approx(1e-5));
  CHECK(layer("", "a", "m", "fp8") == Approx(2e-5));
  CHECK(layer("1", "a", "n", "fp8") == Approx(6e-5));
  CHECK(layer("1", "a", "m", "bf16") == Approx(2e-5));
  CHECK(layer("2", "a", "m", "fp8") == Approx(2e-5));
  // However large a factor, no rate exceeds what the GPU's description promises.
  engine.version = "1";
  CHECK(adjusted_constants(engine, "a", "m", "fp8").kv_bandwidth_share < 0.951);
}

TEST_CASE("steps that make no sense are refused") {
  use_data();
  const Setting setting = settings().front();
  const StepTime step_time = step_time_of(setting);
  for (std::int64_t StepWork::*const count : counts) {
    StepWork work;
    work.decode_sequences = 1;
    work.*count = -1;
    CHECK_THROWS_AS(step_time.of(work), Error);
  }
  StepWork endless;
  endless.decode_sequences = 1;
  endless.decode_entries = std::int64_t{1} << 60;
  CHECK_THROWS_AS(step_time.of(endless), Error);
  Gpu bare = find_gpu(setting.gpu);
  bare.flops_per_second.clear();
  CHECK_THROWS_AS(StepTime(find_llm(setting.llm), bare, find_engine(setting.engine), setting.deployment), Error);
  Deployment three;
  three.tensor_parallel = 3;
  CHECK_THROWS_AS(StepTime(find_llm(setting.llm), find_gpu(setting.gpu), find_engine(setting.engine), three), Error);
}

// Does the memory that an engine leaves for keys and values come out as published, line by line, and what if none is
// left?
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <sstream>
#include <string>

#include "models/deployment.h"
#include "models/engine.h"
#include "models/kv_budget.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::models;

namespace {

constexpr double gib = 1073741824;

void use_data() { setenv("EVICTSIM_DATA", EVICTSIM_SOURCE_DIR "/models", 1); }

Llm llm_of(const std::string& name) {
  use_data();
  return find_llm(name);
}

Gpu gpu_of(const std::string& name) {
  use_data();
  return find_gpu(name);
}

/// Constants that docs/models.md derives.
KvOverhead overhead_of(const std::string& engine) {
  use_data();
  return find_engine(engine).kv_overhead;
}

Deployment layout(int tensor_parallel, int pipeline_parallel = 1) {
  Deployment d;
  d.tensor_parallel = tensor_parallel;
  d.pipeline_parallel = pipeline_parallel;
  return d;
}

KvBudget budget(const std::string& model, const std::string& gpu, const Deployment& d, const KvBudgetOptions& options,
                const KvOverhead& overhead = overhead_of("vllm")) {
  return kv_budget(llm_of(model), gpu_of(gpu), overhead, d, options);
}

std::int64_t sum_of(const KvBudget& result) {
  return std::accumulate(result.lines.begin(), result.lines.end(), std::int64_t{0},
                         [](std::int64_t sum, const KvBudgetLine& line) { return sum + line.bytes; });
}

std::string error_of(const std::string& model, const std::string& gpu, const Deployment& d,
                     const KvBudgetOptions& options, ErrorCode code) {
  try {
    budget(model, gpu, d, options);
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  FAIL("no error: " << model);
  return {};
}

}  // namespace

TEST_CASE("published block counts come out within 3 %") {
  struct Row {
    const char *model, *gpu;
    int tensor_parallel;
    KvBudgetOptions options;
    double blocks;
  };
  // docs/models.md names the sources and which of these the constants were fitted to.
  for (const Row& row : {Row{"llama-3.1-8b", "rtx-4090", 1, {0.9, 16, 2048, 256}, 2588},
                         {"qwen3-32b", "h100-80gb-sxm", 2, {0.65, 16, 8192, 1024}, 9271},
                         {"llama-3.1-70b", "h100-80gb-sxm", 4, {0.65, 16, 8192, 1024}, 10768},
                         {"qwen3-32b", "h100-80gb-sxm", 2, {0.9, 16, 8192, 1024}, 307328.0 / 16},
                         {"llama-3-8b", "h100-80gb-sxm", 1, {0.9, 16, 8192, 256}, 53.29 * gib / (131072 * 16)},
                         {"llama-2-7b", "a100-80gb-sxm", 1, {0.9, 16, 4096, 256}, 7351}}) {
    CAPTURE(row.model, row.gpu, row.options.memory_share);
    const KvBudget found = budget(row.model, row.gpu, layout(row.tensor_parallel), row.options);
    CHECK(static_cast<double>(found.blocks) == Approx(row.blocks).epsilon(0.03));
    CHECK(sum_of(found) == found.kv_bytes);
    CHECK(found.tokens == found.blocks * 16);
  }
  Deployment d = layout(4);
  d.weights = ElementType::fp8;
  const KvBudget sglang = budget("qwen3-235b-a22b", "h100-80gb-sxm", d, {0.93, 16, 8192, 1024}, overhead_of("sglang"));
  CHECK(static_cast<double>(sglang.tokens) == Approx(367404).epsilon(0.03));
}

TEST_CASE("the memory of a run is predicted without it: a constant from another model, GPU and version") {
  // The context of the one published run of one GPU that tells all its settings, beside the run predicted below.
  const KvBudgetOptions other{0.9, 16, 4096, 256};
  KvOverhead overhead = overhead_of("vllm");
  overhead.context_bytes = 0;
  const KvBudget without = budget("llama-2-7b", "a100-80gb-sxm", layout(1), other, overhead);
  const double block = 16.0 * static_cast<double>(without.bytes_per_token);
  overhead.context_bytes = without.kv_bytes - std::llround(7351.5 * block);
  REQUIRE(budget("llama-2-7b", "a100-80gb-sxm", layout(1), other, overhead).blocks == 7351);
  const KvBudget found = budget("llama-3.1-8b", "rtx-4090", layout(1), {0.9, 16, 2048, 256}, overhead);
  CAPTURE(overhead.context_bytes, found.blocks);
  CHECK(static_cast<double>(found.blocks) == Approx(2588).epsilon(0.03));
  CHECK(found.blocks != 2588);
}

TEST_CASE("runs of old versions hold what those versions kept while they measured their memory") {
  // vLLM 0.9 sorts the logits of all its sequences in order to sample: 22 bytes of each at once.
  KvOverhead sorting = overhead_of("vllm");
  sorting.logit_bytes = 22;
  Deployment quantised = layout(4);
  quantised.weights = ElementType::fp8;
  const KvBudget experts = budget("qwen3-235b-a22b", "h100-80gb-sxm", quantised, {0.9, 16, 8192, 1024}, sorting);
  CHECK(static_cast<double>(experts.tokens) == Approx(178880).epsilon(0.03));
  // vLLM 0.2 keeps the tensors of a step's 160 all-reduces, 4096 tokens of 8192 numbers each, until the step's end.
  KvOverhead reducing = overhead_of("vllm");
  reducing.context_bytes += std::int64_t{160} * 4096 * 8192 * 2;
  const KvBudget dense = budget("llama-2-70b", "a100-80gb-sxm", layout(4), {0.9, 16, 4096, 256}, reducing);
  CHECK(static_cast<double>(dense.blocks) == Approx(20865).epsilon(0.05));
}

TEST_CASE("printed terms give the printed block count exactly") {
  // vLLM on an RTX 3090 with Llama-3.1-8B: 23.58 GiB visible, peak 17.06 with weights of 14.99, 0.35 besides PyTorch.
  KvOverhead printed{.activation_factor = 0};
  printed.context_bytes = static_cast<std::int64_t>((17.06 - 14.99 + 0.35) * gib);
  const KvBudget found = budget("llama-3.1-8b", "rtx-3090", layout(1), {}, printed);
  CHECK(found.blocks == 1952);
  // The weights with the rotary tables are the 14.99 GiB that it prints.
  double loaded = 0;
  for (const KvBudgetLine& line : found.lines) {
    if (line.name.ends_with("weights") || line.name == "rotary tables") loaded -= static_cast<double>(line.bytes);
  }
  CHECK(loaded / gib == Approx(14.9889).margin(0.0005));
}

TEST_CASE("an older engine's 76 capacities come out of one overhead") {
  // DistServe's table for OPT on A100: 0.95 of visible memory, embeddings whole on every GPU, constant otherwise.
  std::ifstream table(EVICTSIM_SOURCE_DIR "/tests/golden/data/distserve/max_num_tokens.csv");
  const KvOverhead distserve{.context_bytes = 840'000'000, .activation_factor = 0, .whole_embedding = true};
  KvBudgetOptions options;
  options.memory_share = 0.95;
  std::string line;
  std::getline(table, line);
  int rows = 0;
  while (std::getline(table, line)) {
    CAPTURE(line);
    std::istringstream fields(line);
    std::string model, tensor, pipeline, tokens;
    std::getline(fields, model, ',');
    std::getline(fields, tensor, ',');
    std::getline(fields, pipeline, ',');
    std::getline(fields, tokens);
    const Deployment d = layout(std::stoi(tensor), std::stoi(pipeline));
    const KvBudget found = budget(model, "a100-80gb-sxm", d, options, distserve);
    CHECK(static_cast<double>(found.tokens) == Approx(std::stod(tokens)).epsilon(0.001));
    ++rows;
  }
  CHECK(rows == 76);
}

TEST_CASE("what the share is a share of decides what activations cost") {
  const KvBudgetOptions options{0.8, 16, 8192, 256};
  const Llm llm = llm_of("llama-3.1-8b");
  const Gpu gpu = gpu_of("h100-80gb-sxm");
  const Deployment d = checked(llm, {});
  const double visible = static_cast<double>(visible_bytes(gpu)), weights = weight_bytes_per_gpu(llm, d).total();
  const double rotary = 2.0 * 128 * 131072, constant = 1e9;
  KvOverhead overhead{.context_bytes = 1'000'000'000};
  // Two widths of 4096 and three of 14336 per token in bf16; logits in f32.
  const double activations = 2.0 * 8192 * (2 * 4096 + 3 * 14336) + 4.0 * 256 * 128256;
  CHECK(activation_bytes(llm, d, overhead, options) == activations);
  const auto kv = [&](ShareOf share_of) {
    overhead.share_of = share_of;
    return static_cast<double>(kv_budget(llm, gpu, overhead, d, options).kv_bytes);
  };
  CHECK(kv(ShareOf::visible) == Approx(0.8 * visible - weights - activations - rotary - constant).margin(10));
  CHECK(kv(ShareOf::resident) == Approx(0.8 * visible - weights - rotary - constant).margin(10));
  CHECK(kv(ShareOf::free) == Approx(0.8 * (visible - weights - activations - rotary - constant)).margin(10));
}

TEST_CASE("weights are shared out without loss") {
  for (const char* name : {"llama-3.1-70b", "deepseek-v3", "gpt-oss-120b", "qwen3.5-397b-a17b", "opt-13b", "glm-5"}) {
    CAPTURE(name);
    const Llm llm = llm_of(name);
    Deployment d;
    d.weights = d.experts = ElementType::bf16;
    const auto all = static_cast<double>(parameters(llm).total());
    CHECK(weight_bytes_per_gpu(llm, checked(llm, d)).total() == Approx(2 * all));
    // Every stage of a pipeline together; a tied embedding is needed at both ends.
    d.pipeline_parallel = 4;
    double stages_together = 0;
    for (std::size_t stage = 0; stage < 4; ++stage)
      stages_together += weight_bytes_per_gpu(llm, checked(llm, d), stage).total();
    const double twice =
        llm.tied_embeddings ? static_cast<double>(llm.vocabulary) * static_cast<double>(llm.hidden_size) : 0;
    CHECK(stages_together == Approx(2 * (all + twice)));
    // Tensor parallelism: what is on every GPU comes on top.
    d.pipeline_parallel = 1;
    d.tensor_parallel = 2;
    const WeightBytes half = weight_bytes_per_gpu(llm, checked(llm, d));
    CHECK(2 * half.total() >= Approx(2 * all));
    CHECK(2 * half.total() < 1.02 * 2 * all);
    CHECK(2 * half.routed_experts == Approx(2 * static_cast<double>(parameters(llm).routed_experts)));
  }
}

TEST_CASE("stored types and layouts of experts count") {
  const Llm llm = llm_of("gpt-oss-120b");
  // The published checkpoint is 60.8 GiB (model card, table 1).
  CHECK(weight_bytes_per_gpu(llm, checked(llm, {})).total() / gib == Approx(60.8).epsilon(0.005));
  Deployment d;
  d.attention_data_parallel = 4;
  d.moe_expert_parallel = 4;
  const Deployment spread = checked(llm, d);
  CHECK(spread.moe_tensor_parallel == 1);
  CHECK(spread.gpus() == 4);
  const WeightBytes one = weight_bytes_per_gpu(llm, checked(llm, {})), four = weight_bytes_per_gpu(llm, spread);
  CHECK(four.routed_experts == Approx(one.routed_experts / 4));
  CHECK(four.attention == one.attention);
  d.weights = ElementType::fp8;
  CHECK(weight_types(llm, d) == WeightTypes{ElementType::fp8, ElementType::fp8, ElementType::fp8});
  d.experts = ElementType::nvfp4;
  CHECK(weight_types(llm, d).experts == ElementType::nvfp4);
  // 64 layers over 3 stages: the one that is left over goes to the second.
  const std::vector<Stage> cut = stages(llm_of("qwen3-32b"), layout(1, 3));
  CHECK(cut[0].last == 21);
  CHECK(cut[1].last == 43);
  CHECK(cut[2].last == 64);
}

TEST_CASE("windows and states are counted per sequence") {
  const KvBudget oss = budget("gpt-oss-20b", "h100-80gb-sxm", layout(1), {});
  CHECK(oss.bytes_per_token == 12 * 8 * 128 * 2);
  CHECK(oss.bytes_per_sequence == 12 * 8 * 128 * 2 * 128);
  CHECK(oss.blocks_per_sequence == 8);
  // With windows alone, tokens are what blocks hold.
  const KvBudget mistral = budget("mistral-7b", "h100-80gb-sxm", layout(1), {});
  CHECK(mistral.bytes_per_token == 131072);
  CHECK(mistral.bytes_per_sequence == 0);
  const KvBudget hybrid = budget("qwen3-next-80b-a3b", "h100-80gb-sxm", layout(4), {});
  CHECK(hybrid.bytes_per_token == 12 * 2 * 256 * 2);
  CHECK(hybrid.bytes_per_sequence == 36 * (32 * 128 * 128 * 4 + 3 * 8192 * 2) / 4);
}

TEST_CASE("capacity grows with the share and with GPUs") {
  const Llm llm = llm_of("llama-3.1-8b");
  std::int64_t before = 0;
  for (const double share : {0.5, 0.7, 0.9, 1.0}) {
    const std::int64_t now = budget("llama-3.1-8b", "h100-80gb-sxm", layout(1), {share, 16, 8192, 256}).blocks;
    CHECK(now > before);
    before = now;
  }
  before = 0;
  for (const int gpus : {1, 2, 4, 8}) {
    const std::int64_t now = budget("llama-3.1-8b", "h100-80gb-sxm", layout(gpus), {}).blocks;
    CHECK(now > before);
    before = now;
  }
  // GPUs without a link of their own pay nothing for it.
  const KvBudget plain = budget("llama-3.1-8b", "l40s", layout(2), {});
  for (const KvBudgetLine& line : plain.lines) CHECK(line.name != "links to other GPUs");
}

TEST_CASE("a model that does not fit says by how much and what would") {
  const std::string alone = error_of("llama-3.1-70b", "h100-80gb-sxm", layout(1), {}, ErrorCode::out_of_memory);
  CHECK_THAT(alone, Catch::Contains("llama-3.1-70b") && Catch::Contains("h100-80gb-sxm"));
  CHECK_THAT(alone, Catch::Contains("tensor_parallel 2 would fit"));
  const std::string huge = error_of("deepseek-v3", "rtx-4090", layout(1), {}, ErrorCode::out_of_memory);
  CHECK_THAT(huge, Catch::Contains("would fit"));
  CHECK_THAT(error_of("qwen3-14b", "rtx-4090", layout(1), {}, ErrorCode::out_of_memory),
             Catch::Contains("fp8 weights"));
  // The bytes that are missing are exactly those.
  const Llm llm = llm_of("llama-3.1-70b");
  Gpu gpu = gpu_of("h100-80gb-sxm");
  const auto needed = [&](std::int64_t visible) {
    gpu.visible_bytes = visible;
    return kv_budget(llm, gpu, overhead_of("vllm"), layout(1), {1.0, 16, 8192, 256});
  };
  const std::int64_t given = 100'000'000'000;
  std::string text;
  try {
    needed(given);
  } catch (const Error& error) {
    text = error.what();
  }
  const std::size_t end = text.find(" bytes (");
  REQUIRE(end != std::string::npos);
  const std::int64_t missing = std::stoll(text.substr(text.rfind(' ', end - 1) + 1));
  CHECK(needed(given + missing).blocks == 1);
  CHECK_THROWS_AS(needed(given + missing - 1), Error);
}

TEST_CASE("wrong layouts and options are refused with the parameter") {
  const auto refused = [](const Deployment& d, const KvBudgetOptions& options, const char* part,
                          const char* model = "llama-3.1-8b") {
    CAPTURE(part);
    CHECK_THAT(error_of(model, "h200-141gb-sxm", d, options, ErrorCode::invalid_argument), Catch::Contains(part));
  };
  refused({}, {0, 16, 8192, 256}, "memory_share = 0");
  refused({}, {1.01, 16, 8192, 256}, "memory_share = 1.01");
  refused({}, {std::nan(""), 16, 8192, 256}, "memory_share = nan");
  refused({}, {0.9, 0, 8192, 256}, "block_tokens = 0");
  refused({}, {0.9, 16, 0, 256}, "token_budget = 0");
  refused({}, {0.9, 16, std::int64_t{1} << 62, 256}, "token_budget");
  refused({}, {0.9, 16, 8192, -1}, "max_sequences = -1");
  refused(layout(0), {}, "tensor_parallel = 0");
  refused(layout(3), {}, "tensor_parallel = 3");
  refused(layout(1 << 20), {}, "tensor_parallel = 1048576");
  refused(layout(1, 33), {}, "pipeline_parallel = 33");
  Deployment d = layout(4);
  d.moe_expert_parallel = 8;
  refused(d, {}, "moe_expert_parallel = 8", "qwen3-235b-a22b");
  d.moe_expert_parallel = 4;
  d.moe_tensor_parallel = 4;
  refused(d, {}, "moe_expert_parallel = 4", "qwen3-235b-a22b");
  d.moe_tensor_parallel = -1;
  refused(d, {}, "moe_tensor_parallel = -1", "qwen3-235b-a22b");
  d = layout(1);
  d.attention_data_parallel = 3;
  d.moe_expert_parallel = 3;
  refused(d, {}, "128 experts", "qwen3-235b-a22b");
  d = layout(1);
  d.kv = ElementType::nvfp4;
  refused(d, {}, "kv = nvfp4");
}

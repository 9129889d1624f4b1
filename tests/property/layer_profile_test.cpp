// Are tables of layer times read as steps, and do engines adjusted to them take as long as they say?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "analysis/calibration/layer_profile.h"
#include "models/gpu.h"
#include "models/llm.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::analysis;
namespace fs = std::filesystem;

namespace {

constexpr double layers = 32;

/// Kernels of Llama-3.1-8B on a GPU that reaches these rates: the larger of bytes and arithmetic, and a start.
struct Kernels {
  double bytes_per_second = 0.8 * 936.2e9, flops_per_second = 0.8 * 71e12, start_us = 3;

  [[nodiscard]] double product_us(double weights, double tokens) const {
    return std::max(2 * weights / bytes_per_second, 2 * weights * tokens / flops_per_second) * 1e6;
  }
  [[nodiscard]] double attention_us(double chunk, double cached, double sequences, double context) const {
    const double pairs = chunk * cached + chunk * (chunk + 1) / 2;
    return start_us + 4 * 4096 * pairs / flops_per_second * 1e6 +
           4096 * (chunk + cached + sequences * context) / bytes_per_second * 1e6;
  }
};

fs::path folder(const std::string& name) {
  setenv("EVICTSIM_DATA", EVICTSIM_SOURCE_DIR "/models", 1);
  fs::path path = fs::path(EVICTSIM_TEST_SCRATCH) / "layer_profile" / name;
  fs::create_directories(path);
  return path;
}

/// Writes the three tables and says how to read them.
std::string tables(const fs::path& where, const Kernels& kernels, const std::string& gpu = "rtx-3090",
                   const std::string& model = "llama-3.1-8b") {
  std::ofstream dense(where / "dense.csv"), sequences(where / "per_sequence.csv"), attention(where / "attention.csv");
  dense << "layer,tokens,time_us\n";
  for (const double tokens : {1, 16, 64, 128, 256, 512, 1024, 2048}) {
    dense << "qkv_proj," << tokens << ',' << kernels.product_us(4096.0 * 6144, tokens) << '\n'
          << "o_proj," << tokens << ',' << kernels.product_us(4096.0 * 4096, tokens) << '\n'
          << "gate_up_proj," << tokens << ',' << kernels.product_us(4096.0 * 28672, tokens) << '\n'
          << "down_proj," << tokens << ',' << kernels.product_us(4096.0 * 14336, tokens) << '\n'
          << "layernorm," << tokens << ",2\nembedding," << tokens << ",5\nfinal_layernorm," << tokens << ",2\n";
  }
  sequences << "time_us,layer,sequences\n";
  for (const double count : {1, 16, 128, 256}) {
    sequences << kernels.product_us(4096.0 * 128256, count) << ",lm_head," << count << '\n';
  }
  attention << "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n";
  for (const double chunk : {0, 256, 1024, 4096}) {
    for (const double cached : {0, 1024}) {
      for (const double count : {0, 1, 16, 64}) {
        for (const double context : {256, 1024, 4096}) {
          if (chunk + count == 0 || (chunk == 0 && cached > 0) || (count == 0 && context > 256)) continue;
          attention << chunk << ',' << cached << ',' << count << ',' << (count == 0 ? 0 : context) << ','
                    << kernels.attention_us(chunk, cached, count, count == 0 ? 0 : context) << '\n';
        }
      }
    }
  }
  return gpu + ":" + model + ":1:" + where.string() + "/";
}

double median_error(const LayerProfile& profile, const models::Engine& engine, StepKind kind) {
  std::vector<double> errors = predicted_over_profile(profile, engine, kind);
  for (double& ratio : errors) ratio = std::abs(ratio - 1);
  REQUIRE(errors.size() >= 4);
  std::sort(errors.begin(), errors.end());
  return errors[errors.size() / 2];
}

}  // namespace

TEST_CASE("a step is all kernels as often as it runs them") {
  const Kernels kernels;
  const LayerProfile profile = read_layer_profile(tables(folder("sum"), kernels));
  CHECK(profile.gpu == "rtx-3090");
  CHECK(profile.precision == "bf16");
  bool decode = false, prompt = false;
  for (const ProfiledStep& step : profile.steps) {
    CHECK(step.work.prefill_tokens <= 2048);  // what the table of tokens does not hold is left out
    const double products = (4096.0 * 6144 + 4096.0 * 4096 + 4096.0 * 28672 + 4096.0 * 14336);
    if (step.work.prefill_tokens == 0 && step.work.decode_sequences == 16 && step.work.decode_entries == 16 * 1024) {
      decode = true;
      const double expected = layers * (kernels.product_us(products, 16) + 4 + kernels.attention_us(0, 0, 16, 1024)) +
                              kernels.product_us(4096.0 * 128256, 16) + 7;
      CHECK(step.seconds == Approx(expected * 1e-6).epsilon(1e-4));
      CHECK(step.kind() == StepKind::decode);
    }
    if (step.work.prefill_context == 2048 && step.work.decode_sequences == 0) {
      prompt = true;
      CHECK(step.work.prefill_pairs == 1024.0 * 1024 + 1024.0 * 1025 / 2);
      const double expected =
          layers * (kernels.product_us(products, 1024) + 4 + kernels.attention_us(1024, 1024, 0, 0)) +
          kernels.product_us(4096.0 * 128256, 1) + 7;
      CHECK(step.seconds == Approx(expected * 1e-6).epsilon(1e-4));
      CHECK(step.kind() == StepKind::prefill);
    }
  }
  CHECK(decode);
  CHECK(prompt);
}

TEST_CASE("engines adjusted to a profile take as long as it says, whatever their own constants are") {
  std::vector<double> factors;
  for (const double share : {0.45, 0.8}) {
    Kernels kernels;
    kernels.bytes_per_second = share * 936.2e9;
    kernels.flops_per_second = share * 71e12;
    const LayerProfile profile = read_layer_profile(tables(folder("rates"), kernels));
    std::vector<models::Engine> engines;
    for (const char* const name : {"sglang", "trtllm", "vllm"}) engines.push_back(models::find_engine(name));
    const std::vector<models::Engine> before = engines;
    adjust_to_profiles(engines, {&profile, 1});
    for (std::size_t i = 0; i < engines.size(); ++i) {
      CAPTURE(share, engines[i].name);
      CHECK(median_error(profile, engines[i], StepKind::decode) < 0.04);
      CHECK(median_error(profile, engines[i], StepKind::prefill) < 0.08);
      CHECK(median_error(profile, engines[i], StepKind::both) < 0.08);
      // One adjustment, for this GPU alone, without what kernels say nothing of.
      REQUIRE(engines[i].adjustments.size() == before[i].adjustments.size() + 1);
      const models::EngineAdjustment& added = engines[i].adjustments.back();
      CHECK(added.gpu == "rtx-3090");
      for (const char* const unseen : {"links", "requests", "wait", "interference", "routing"}) {
        CHECK(added.factors.count(unseen) == 0);
      }
      if (engines[i].name == "vllm") factors.push_back(added.factors.at("gemm"));
    }
    // Again: the same adjustment in place of the first.
    std::vector<models::Engine> again = engines;
    adjust_to_profiles(again, {&profile, 1});
    for (std::size_t i = 0; i < engines.size(); ++i) {
      REQUIRE(again[i].adjustments.size() == engines[i].adjustments.size());
      CHECK(again[i].adjustments.back().factors == engines[i].adjustments.back().factors);
    }
  }
  CHECK(factors.at(1) > 1.4 * factors.at(0));
}

TEST_CASE("what cannot be read as a profile is refused by name") {
  const Kernels kernels;
  const fs::path where = folder("refused");
  const std::string good = tables(where, kernels);
  CHECK_NOTHROW(read_layer_profile(good));
  CHECK_THROWS_WITH(read_layer_profile("rtx-3090:llama-3.1-8b"), Catch::Contains("GPU:MODEL:TENSOR_PARALLEL:PREFIX"));
  CHECK_THROWS_WITH(read_layer_profile("rtx-3090:llama-3.1-8b:0:x"), Catch::Contains("tensor-parallel"));
  CHECK_THROWS_WITH(read_layer_profile("abacus:llama-3.1-8b:1:x"), Catch::Contains("abacus"));
  CHECK_THROWS_WITH(read_layer_profile("rtx-3090:llama-3.1-8b:1:/nowhere/"), Catch::Contains("/nowhere/"));
  CHECK_THROWS_WITH(read_layer_profile(tables(where, kernels, "rtx-3090", "gpt-oss-120b")),
                    Catch::Contains("dense models"));

  const LayerProfile profile = read_layer_profile(tables(where, kernels, "h100-80gb-sxm"));
  std::vector<models::Engine> engines = {models::find_engine("vllm")};
  CHECK_THROWS_WITH(adjust_to_profiles(engines, {&profile, 1}), Catch::Contains("measured points"));

  std::ofstream(where / "attention.csv") << "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n0,0,1,16,-3\n";
  CHECK_THROWS_WITH(read_layer_profile(good), Catch::Contains("-3"));
  std::ofstream(where / "attention.csv") << "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n0,0,1\n";
  CHECK_THROWS_WITH(read_layer_profile(good), Catch::Contains("fields"));
  std::ofstream(where / "attention.csv") << "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n0,0,0,0,3\n";
  CHECK_THROWS_AS(read_layer_profile(good), Error);
  std::ofstream(where / "attention.csv") << "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n9000,0,0,0,3\n";
  CHECK_THROWS_WITH(read_layer_profile(good), Catch::Contains("no row of attention"));
  std::ofstream(where / "dense.csv") << "layer,tokens,time_us\nqkv_proj,1,3\n";
  CHECK_THROWS_WITH(read_layer_profile(good), Catch::Contains("o_proj"));
  std::ofstream(where / "dense.csv") << "layer,time_us\nqkv_proj,3\n";
  CHECK_THROWS_WITH(read_layer_profile(good), Catch::Contains("tokens"));
}

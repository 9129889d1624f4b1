#pragma once
/// \file
/// Captures of the tiny model in which everything is float32, and their comparison.

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/capture/tiny_model.h"
#include "traces/capture/llama_capture.h"
#include "traces/reader.h"

namespace evictsim::tests {

namespace fs = std::filesystem;
// The names under test.
using namespace traces;           // NOLINT(google-build-using-namespace)
using namespace traces::capture;  // NOLINT(google-build-using-namespace)

inline const std::string prompt_text = "Thequickbrownfoxjumpsoverthelazydog";

inline fs::path scratch(const std::string& name) { return fs::path(EVICTSIM_TEST_SCRATCH) / name; }

// Everything in float32: the engine then does the arithmetic that the trace claims.
inline CapturePlan exact_plan(const fs::path& model) {
  CapturePlan plan;
  plan.model = model;
  plan.engine.flash_attention = FlashAttention::off;
  plan.engine.cache_type = CacheType::float32;
  plan.sequence.prompt = prompt_text;
  plan.sequence.decode = 9;
  plan.sequence.ignore_end = true;
  plan.record.tensor_type = TensorType::float32;
  return plan;
}

inline fs::path default_model() {
  fs::path path = scratch("tiny.gguf");
  static const TinyWeights weights = write_tiny_model(path, {});
  return path;
}

inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  }
  return largest;
}

inline void require_same(const Reader& a, const Reader& b, double tolerance) {
  REQUIRE(a.header().layers == b.header().layers);
  CHECK(a.read_channel(0, Channel::token_ids)->data == b.read_channel(0, Channel::token_ids)->data);
  for (const int layer : a.header().layers) {
    const LayerTensors left = a.read_layer(0, layer), right = b.read_layer(0, layer);
    CHECK(largest_difference(left.q, right.q) <= tolerance);
    CHECK(largest_difference(left.k, right.k) <= tolerance);
    CHECK(largest_difference(left.v, right.v) <= tolerance);
  }
}

}  // namespace evictsim::tests

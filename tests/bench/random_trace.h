#pragma once
/// \file
/// Traces of a given shape with random contents: timings do not depend on what the numbers are.

#include <filesystem>

#include "traces/header.h"

namespace evictsim::bench {

struct TraceShape {
  int layers = 1;
  int query_heads = 1;
  int kv_heads = 1;
  int head_dim = 64;
  int hidden_size = 64;
  int prompt = 512;
  int decode = 64;
  int window = 64;  ///< prompt rows at the end that have a query, beside the decode rows
  bool with_w_o = true;
  bool compress = false;
  traces::TensorType type = traces::TensorType::float16;
};

/// SmolLM2-135M: 30 layers, 9 / 3 heads, d 64, D 576, 512 + 64 tokens; every row has a query.
TraceShape smollm2_shape();
/// Layers of an 8B model: 32 / 8 heads, d 128, D 4096; 64 decode rows and a window of 64.
TraceShape shape_8b(int tokens, int layers);

/// Writes such a trace beside others in the temporary folder and returns its path; the caller removes it.
std::filesystem::path write_random_trace(const TraceShape& shape);

}  // namespace evictsim::bench

#include "models/geometry.h"

#include <string>

#include "traces/error.h"

namespace evictsim::models {
namespace {

void require_positive(int value, const char* name) {
  if (value > 0) return;
  throw Error(ErrorCode::invalid_value, "must be at least 1", {.dataset = name, .value = std::to_string(value)});
}

}  // namespace

Geometry Geometry::of(const traces::Header& header) {
  require_positive(header.num_layers, "num_layers");
  require_positive(header.num_query_heads, "num_query_heads");
  require_positive(header.num_kv_heads, "num_kv_heads");
  require_positive(header.head_dim, "head_dim");
  require_positive(header.hidden_size, "hidden_size");
  if (header.num_query_heads % header.num_kv_heads != 0) {
    throw Error(ErrorCode::invalid_value, "must be a multiple of num_kv_heads = " + std::to_string(header.num_kv_heads),
                {.dataset = "num_query_heads", .value = std::to_string(header.num_query_heads)});
  }
  return {.num_layers = header.num_layers,
          .layers = header.layers,
          .num_query_heads = header.num_query_heads,
          .num_kv_heads = header.num_kv_heads,
          .head_dim = header.head_dim,
          .hidden_size = header.hidden_size,
          .attention_scale = header.attention_scale,
          .logit_softcap = header.logit_softcap,
          .sliding_window = header.sliding_window};
}

}  // namespace evictsim::models

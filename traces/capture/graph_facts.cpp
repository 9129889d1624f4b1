#include "traces/capture/graph_facts.h"

#include <ggml-backend.h>
#include <ggml.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

namespace evictsim::traces::capture {
namespace {

// Places of the parameters inside ggml_tensor::op_params, as ggml_rope_ext, ggml_soft_max_ext and
// ggml_flash_attn_ext write them.
constexpr std::size_t rope_rotated = 1, rope_mode = 2, rope_original_context = 4, rope_base = 5, rope_scale = 6,
                      rope_extrapolation = 7, rope_attention_factor = 8, rope_beta_fast = 9, rope_beta_slow = 10,
                      rope_offset = 15;
constexpr std::size_t attention_scale = 0, attention_alibi = 1;
constexpr std::size_t scale_factor = 0, scale_bias = 1;

double real_parameter(const ggml_tensor* node, std::size_t place) {
  float value = 0;
  std::memcpy(&value, &node->op_params[place], sizeof value);
  return static_cast<double>(value);
}

bool passes_data_on(ggml_op operation) {
  return operation == GGML_OP_VIEW || operation == GGML_OP_RESHAPE || operation == GGML_OP_PERMUTE ||
         operation == GGML_OP_TRANSPOSE || operation == GGML_OP_CONT || operation == GGML_OP_CPY;
}

// The operator that computed the heads' outputs: the fused kernel, or the softmax whose product with v they are.
const ggml_tensor* attention_operator(const ggml_tensor* node) {
  while (node != nullptr && passes_data_on(node->op)) node = node->src[0];
  if (node != nullptr && node->op == GGML_OP_MUL_MAT) node = node->src[1];
  if (node == nullptr || (node->op != GGML_OP_FLASH_ATTN_EXT && node->op != GGML_OP_SOFT_MAX)) return nullptr;
  return node;
}

// Walks from an attention operator's query input back to the RoPE node; multiplies scalings met on the way.
bool reaches_rope(const ggml_tensor* node, const std::string& query_name, double& factor) {
  while (node != nullptr && node->op != GGML_OP_ROPE) {
    if (node->op == GGML_OP_SCALE) {
      if (real_parameter(node, scale_bias) != 0) return false;
      factor *= real_parameter(node, scale_factor);
    } else if (!passes_data_on(node->op)) {
      return false;
    }
    node = node->src[0];
  }
  return node != nullptr && query_name == node->name;
}

// The query input of softmax attention without a fused kernel: softmax <- (soft cap) <- k q.
const ggml_tensor* query_of_softmax(const ggml_tensor* node) {
  const ggml_tensor* product = node->src[0];
  while (product != nullptr &&
         (product->op == GGML_OP_SCALE || product->op == GGML_OP_UNARY || passes_data_on(product->op))) {
    product = product->src[0];
  }
  return product != nullptr && product->op == GGML_OP_MUL_MAT ? product->src[1] : nullptr;
}

}  // namespace

std::vector<double> RopeFacts::frequencies() const {
  const int pairs = rotated / 2;
  const auto correction = [&](double rotations) {
    return rotated * std::log(original_context / (rotations * 2 * std::numbers::pi)) / (2 * std::log(base));
  };
  double low = 0, high = 0;
  if (extrapolation != 0) {
    low = std::max(0.0, std::floor(correction(beta_fast)));
    high = std::min(rotated - 1.0, std::ceil(correction(beta_slow)));
  }
  std::vector<double> result;
  for (int pair = 0; pair < pairs; ++pair) {
    const double divisor = divisors.empty() ? 1.0 : static_cast<double>(divisors[static_cast<std::size_t>(pair)]);
    const double original = std::pow(base, -2.0 * pair / rotated) / divisor;
    double frequency = scale * original;
    if (extrapolation != 0) {  // YaRN, arXiv 2309.00071: high frequencies keep their value, low ones are interpolated
      const double ramp = (pair - low) / std::max(0.001, high - low);
      const double mix = (1 - std::clamp(ramp, 0.0, 1.0)) * extrapolation;
      frequency = frequency * (1 - mix) + original * mix;
    }
    result.push_back(frequency);
  }
  return result;
}

double RopeFacts::magnitude() const {
  return extrapolation != 0 ? attention_factor * (1 + 0.1 * std::log(1 / scale)) : attention_factor;
}

RopeFacts read_rope(const ggml_tensor* node, std::string& unsupported) {
  RopeFacts facts;
  facts.rotated = node->op_params[rope_rotated];
  facts.mode = node->op_params[rope_mode];
  facts.original_context = node->op_params[rope_original_context];
  facts.base = real_parameter(node, rope_base);
  facts.scale = real_parameter(node, rope_scale);
  facts.extrapolation = real_parameter(node, rope_extrapolation);
  facts.attention_factor = real_parameter(node, rope_attention_factor);
  facts.beta_fast = real_parameter(node, rope_beta_fast);
  facts.beta_slow = real_parameter(node, rope_beta_slow);
  if (facts.mode != 0 && facts.mode != GGML_ROPE_TYPE_NEOX) {
    unsupported = "its RoPE uses several positions per token";
  } else if (node->op_params[rope_offset] != 0) {
    unsupported = "its RoPE starts inside the head";
  }
  if (const ggml_tensor* divisors = node->src[2]; divisors != nullptr) {
    if (divisors->type != GGML_TYPE_F32 || ggml_nelements(divisors) < facts.rotated / 2) {
      unsupported = "its RoPE frequency factors have an unexpected type or length";
    } else {
      facts.divisors.resize(static_cast<std::size_t>(facts.rotated / 2));
      ggml_backend_tensor_get(divisors, facts.divisors.data(), 0, facts.divisors.size() * sizeof(float));
    }
  }
  return facts;
}

AttentionFacts read_attention(const ggml_tensor* output, const std::string& query_name) {
  AttentionFacts facts;
  const ggml_tensor* node = attention_operator(output);
  if (node == nullptr) {
    facts.unsupported = "its attention is not a plain softmax over the cached keys";
    return facts;
  }
  facts.flash = node->op == GGML_OP_FLASH_ATTN_EXT;
  facts.scale = real_parameter(node, attention_scale);
  const ggml_tensor* query = facts.flash ? node->src[0] : query_of_softmax(node);
  const ggml_tensor* sinks = facts.flash ? node->src[4] : node->src[2];
  if (!reaches_rope(query, query_name, facts.scale)) {
    facts.unsupported = "its queries change between RoPE and attention";
  } else if (real_parameter(node, attention_alibi) != 0) {
    facts.unsupported = "it adds position biases (ALiBi) to the logits";
  } else if (sinks != nullptr) {
    facts.unsupported = "it has learned attention sinks";
  }
  return facts;
}

}  // namespace evictsim::traces::capture

#include "traces/header.h"

#include <fmt/format.h>

#include "traces/reader.h"

namespace evictsim::traces {

const char* to_string(RopeLayout layout) noexcept {
  switch (layout) {
    case RopeLayout::half:
      return "half";
    case RopeLayout::interleaved:
      return "interleaved";
    case RopeLayout::none:
      break;
  }
  return "none";
}

const char* to_string(NormKind kind) noexcept {
  switch (kind) {
    case NormKind::rms:
      return "rms";
    case NormKind::rms_plus_one:
      return "rms_plus_one";
    case NormKind::layer:
      break;
  }
  return "layer";
}

const char* to_string(TensorType type) noexcept {
  switch (type) {
    case TensorType::float16:
      return "float16";
    case TensorType::bfloat16:
      return "bfloat16";
    case TensorType::float32:
      break;
  }
  return "float32";
}

const char* to_string(Channel channel) noexcept {
  switch (channel) {
    case Channel::token_ids:
      return "token_ids";
    case Channel::entropy:
      return "entropy";
    case Channel::entropy_top:
      return "entropy_top";
    case Channel::logprob:
      return "logprob";
    case Channel::step_norm:
      return "step_norm";
    case Channel::cos_final:
      return "cos_final";
    case Channel::cos_attention:
      return "cos_attention";
    case Channel::residual_norm:
      return "residual_norm";
    case Channel::final_norm_input:
      break;
  }
  return "final_norm_input";
}

const char* to_string(LayerWeight weight) noexcept {
  switch (weight) {
    case LayerWeight::w_o:
      return "w_o";
    case LayerWeight::input_norm:
      return "input_norm";
    case LayerWeight::output_norm:
      break;
  }
  return "output_norm";
}

const char* to_string(ModelTensor tensor) noexcept {
  return tensor == ModelTensor::unembedding ? "unembedding" : "final_norm";
}

std::string layer_name(int layer) { return fmt::format("layer_{:03}", layer); }

}  // namespace evictsim::traces

#include "models/llm_quantisation.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "traces/error.h"

namespace evictsim::models {
namespace {

using Json = nlohmann::json;

/// Element type of one group of compressed-tensors.
std::optional<ElementType> compressed_type(const Json& weights) {
  const auto bits = weights.value("num_bits", 0);
  const std::string type = weights.value("type", std::string());
  const Json group = weights.contains("group_size") ? weights.at("group_size") : Json();
  if (bits == 8) return type == "float" ? ElementType::fp8 : ElementType::int8;
  if (bits == 4 && type == "float") return group == 32 ? ElementType::mxfp4 : ElementType::nvfp4;
  if (bits == 4 && type == "int") return group == 32 ? ElementType::int4_32 : ElementType::int4;
  return std::nullopt;
}

std::optional<ElementType> quantised_type(const Json& quantisation) {
  const std::string method = quantisation.value("quant_method", std::string());
  if (method == "fp8" || method == "fbgemm_fp8") return ElementType::fp8;
  if (method == "mxfp4") return ElementType::mxfp4;
  if (method == "awq" || method == "gptq") {
    const auto bits = quantisation.value("bits", 4);
    if (bits == 8) return ElementType::int8;
    if (bits != 4) return std::nullopt;
    return quantisation.value("group_size", 128) == 32 ? ElementType::int4_32 : ElementType::int4;
  }
  if (method == "modelopt" || method == "modelopt_fp4") {
    const std::string algorithm = quantisation.value("quant_algo", std::string());
    if (algorithm == "FP8") return ElementType::fp8;
    if (algorithm == "NVFP4") return ElementType::nvfp4;
  }
  if (method == "compressed-tensors" && quantisation.contains("config_groups")) {
    for (const auto& [name, group] : quantisation.at("config_groups").items()) {
      if (group.contains("weights")) return compressed_type(group.at("weights"));
    }
  }
  return std::nullopt;
}

}  // namespace

WeightTypes weight_types_of(const nlohmann::json& quantisation, const std::string& file) {
  std::optional<ElementType> type;
  try {
    type = quantised_type(quantisation);
  } catch (const nlohmann::json::exception&) {
    type = std::nullopt;  // a field of another type than the method has
  }
  if (!type) {
    throw Error(ErrorCode::unsupported,
                "is not understood; supported are fp8, fbgemm_fp8, mxfp4, awq and gptq with 4 or 8 bits, modelopt with "
                "FP8 or NVFP4, and compressed-tensors with 4 or 8 bits",
                {.file = file, .dataset = "quantization_config", .parameter = {}, .value = {}});
  }
  // Engines keep whole parts in bf16 by naming their modules.
  std::string kept;
  for (const char* key : {"modules_to_not_convert", "ignore", "exclude_modules"}) {
    if (quantisation.contains(key)) kept += quantisation.at(key).dump();
  }
  const auto of = [&](std::string_view module) {
    return kept.find(module) == std::string::npos ? *type : ElementType::bf16;
  };
  WeightTypes weights{of("self_attn"), of("shared_experts"), *type};
  if (*type == ElementType::mxfp4) weights.attention = weights.feed_forward = ElementType::bf16;
  return weights;
}

}  // namespace evictsim::models

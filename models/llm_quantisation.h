#pragma once
/// \file
/// Which weights of a model are quantised, as `quantization_config` of its config.json says. Internal to models/.

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "models/llm.h"

namespace evictsim::models {

/// Throws Error (unsupported), which lists what is understood.
WeightTypes weight_types_of(const nlohmann::json& quantisation, const std::string& file);

}  // namespace evictsim::models

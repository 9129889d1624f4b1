#pragma once
/// \file
/// Reading a model's sizes from the config.json of its Hugging Face repository. Which fields of which architectures are
/// read: docs/models.md.

#include <filesystem>
#include <string>
#include <vector>

#include "models/llm.h"

namespace evictsim::models {

/// The values of `model_type` that are understood, ascending.
std::vector<std::string> supported_model_types();

/// The model is named after the file or, if that is config.json, its folder. Of a model that also sees or hears, only
/// the language model counts. Throws Error: file_not_found, permission_denied, invalid_value,
/// missing_data, wrong_type, each with file and field; unsupported for another model_type or quantisation, with those
/// that are supported.
Llm read_llm_config(const std::filesystem::path& file);

}  // namespace evictsim::models

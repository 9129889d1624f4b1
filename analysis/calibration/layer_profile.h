#pragma once
/// \file
/// Times of a model's layers on one GPU, measured kernel by kernel, as times of whole steps without host work; and the
/// engines' constants for GPUs of which nothing else was measured. Format and method: docs/accuracy.md.

#include <span>
#include <string>
#include <vector>

#include "models/engine.h"
#include "models/step_time.h"

namespace evictsim::analysis {

/// What a step computes, as far as profiles tell such steps apart.
enum class StepKind : std::uint8_t { prefill, decode, both };

struct ProfiledStep {
  models::MeanStepWork work;
  double seconds = 0;  ///< of all kernels, without host work and collectives
  [[nodiscard]] StepKind kind() const {
    if (work.decode_sequences <= 0) return StepKind::prefill;
    return work.prefill_tokens <= 0 ? StepKind::decode : StepKind::both;
  }
};

struct LayerProfile {
  std::string gpu;        ///< models::Gpu::name
  std::string model;      ///< models::Llm::name
  std::string precision;  ///< models::precision_name
  models::StepShape shape;
  std::vector<ProfiledStep> steps;
};

/// `text` is GPU:MODEL:TENSOR_PARALLEL:PREFIX; the tables are PREFIXdense.csv, PREFIXattention.csv and
/// PREFIXper_sequence.csv. One step for every row of the attention table that the other two cover. Throws Error:
/// invalid_argument; unknown_name; unsupported for models with experts, sliding windows or constant states;
/// file_not_found, permission_denied, missing_data, invalid_value.
LayerProfile read_layer_profile(const std::string& text);

/// A profile's steps of one kind: prediction over measurement of each.
std::vector<double> predicted_over_profile(const LayerProfile& profile, const models::Engine& engine, StepKind kind);

/// Gives every engine an adjustment for each profiled GPU, in place of the one it has: factors on groups of constants
/// under which its steps take as long as in the GPU's profiles, the engine's other constants being what they are,
/// pulled towards 1 as effects of GPUs in fit() are. Throws Error (invalid_argument) for a GPU of which an engine has
/// measured points: those hold more than kernels.
void adjust_to_profiles(std::vector<models::Engine>& engines, std::span<const LayerProfile> profiles);

}  // namespace evictsim::analysis

#pragma once
/// \file
/// Budgets that are split over all layers of a model: every layer is scored before any is evaluated.

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "sim/replay/decode_run.h"
#include "sim/replay/layer_replay.h"

namespace evictsim::sim {

/// Reads the layer of a slot with what policies need.
using LoadLayer = std::function<std::unique_ptr<LayerData>(std::size_t slot, const policies::Needs& needs)>;

/// Decides the counts of every active policy whose allocator looks at all layers (docs/policies.md), of slots 0 ..
/// layers - 1. Layers are streamed, except for policies that pool all layers at every cut while
/// decoding: these hold every layer of the sequence in memory. A policy that fails is reported to `failed` and has no
/// plans.
ModelPlans plan_model_wide(const SequenceContext& context, std::size_t layers, const LoadLayer& load,
                           const std::function<void(std::size_t policy, const std::string& why)>& failed);

}  // namespace evictsim::sim

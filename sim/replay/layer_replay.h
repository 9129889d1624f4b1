#pragma once
/// \file
/// The replay of one layer of one sequence under every policy and budget of a plan.

#include <atomic>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "models/projection.h"
#include "sim/replay/decode_run.h"
#include "sim/replay/kept_chain.h"
#include "sim/replay/layer_cache.h"
#include "sim/replay/layer_data.h"
#include "sim/replay/prompt_features.h"
#include "sim/replay/replay.h"
#include "sim/replay/tile.h"

namespace evictsim::sim {

/// What one layer's replay reports to; calls may come from any thread.
struct LayerSink {
  std::function<void(PromptCut&&)> prompt_cut;
  std::function<void(const FullBlock&)> full_block;
  std::function<void(const LayerBlock&)> layer_block;
  std::function<void(const FullEntries&)> full_entries;
  std::function<void(const EntryLosses&)> entry_losses;
  std::function<void(std::size_t policy, const std::string& why)> failed;
};

/// A plan's policy as one sequence runs it.
struct ActivePolicy {
  std::size_t index = 0;            ///< into ReplayPlan::policies
  policies::Needs needs;            ///< including what its schedule adds
  std::vector<std::size_t> points;  ///< of this policy, indices into ReplayPlan::points
};

/// What was decided over all layers for the points that need it: [point][slot].
using ModelPlans = std::map<std::size_t, std::vector<RunPlan>>;

/// Everything that stays the same over the layers of a sequence.
struct SequenceContext {
  const ReplayPlan& plan;
  const ReplayOptions& options;
  std::vector<ActivePolicy> policies;
  policies::Needs needs;  ///< union over `policies`
  RandomKey random;
  const std::atomic<bool>& stop;
  ModelPlans plans = {};
  std::vector<std::int32_t> summed_rows = {};  ///< SequenceStart::summed_rows
};

/// Runs one layer; `slot` is its index in SequenceStart::layers. `projection` may be null; it looks along directions
/// where the context has summed rows. Throws Error(interrupted).
void replay_layer(const SequenceContext& context, const LayerData& layer, std::size_t slot,
                  models::OutputProjection* projection, const LayerSink& sink);

}  // namespace evictsim::sim

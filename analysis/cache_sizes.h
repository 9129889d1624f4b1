#pragma once
/// \file
/// How many entries the heads of one sequence hold under a policy: after the prompt's cut and at some decode rows.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sim/replay/replay.h"

namespace evictsim::analysis {

/// Decode rows at which sizes are noted, at most.
inline constexpr std::size_t most_sampled_steps = 8;
inline constexpr std::int32_t not_sampled = -1;

/// Which of `count` decode rows: evenly spread, the first and the last among them.
std::vector<std::size_t> sampled_steps(std::size_t count);

/// Of one layer.
struct LayerSizes {
  std::vector<std::int32_t> kept;  ///< [cache head] entries after the prompt's cut
  /// [sampled step * cache heads] entries attended; not_sampled where the layer has no query.
  std::vector<std::int32_t> resident;
  std::int64_t scored_entries = 0;  ///< for the prompt's cut, over cache heads
  bool placed = false;              ///< a placement says what is attended and where bytes lie

  void begin(const sim::PromptCut& cut, std::size_t samples);
  /// Row `index` of the block is sampled step `sample`.
  void note(const sim::LayerBlock& block, std::size_t index, std::size_t sample);
};

}  // namespace evictsim::analysis

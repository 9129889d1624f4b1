#pragma once
/// \file
/// What a timeline shows, taken from run files.

#include <span>
#include <vector>

#include "analysis/replay_timeline.h"
#include "analysis/run_file_reader.h"

namespace evictsim::analysis {

/// One element per row with arrays by step, in the order of the runs and their rows. Throws Error(missing_data) when no
/// run has any.
std::vector<ReplayTimeline> replay_timelines(std::span<const RunReader> runs);

}  // namespace evictsim::analysis

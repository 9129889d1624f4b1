#pragma once
/// \file
/// The sequences of a replay for serving, step by step: what of a run file is served, in the terms of the model served.
/// Rules: docs/serving.md, "Recorded sequences".

#include <vector>

#include "analysis/memory_profile.h"
#include "analysis/run_file_events.h"
#include "sim/serving/recorded_cache.h"

namespace evictsim::analysis {

/// `bytes_per_token`: of keys and values of the model served, in all layers. Throws Error(missing_data) for sequences
/// without decode rows, Error(invalid_argument) for what recorded_cache() refuses.
sim::RecordedSequence recorded_sequence(const RecordedSteps& steps, PageRule rule, double bytes_per_token);

}  // namespace evictsim::analysis

#pragma once
/// \file
/// Closed form of what a closed loop of equal requests measures on one replica with continuous batching and chunked
/// prefill: as soon as a request ends, the next one arrives. No events are simulated. Derivation: docs/accuracy.md.

#include "models/engine.h"
#include "models/step_time.h"

namespace evictsim::sim {

struct ClosedLoop {
  double prompt_tokens = 0;
  double output_tokens = 0;   ///< at least 1
  double concurrency = 0;     ///< requests in flight on the replica, at least 1
  double entries_read = 0;    ///< KV entries that a decode step reads per sequence, halfway through its output
  double most_sequences = 0;  ///< that run at once: KV memory or the scheduler's limit, at least 1
  double queued_share = 1;    ///< of the time without memory, what is spent before the first token; else preempted
  double token_budget = 0;    ///< tokens of a step
};

/// Means over requests, in seconds.
struct ClosedLoopTimes {
  double first_token = 0;       ///< from arrival
  double per_output_token = 0;  ///< after the first one
};

ClosedLoopTimes closed_loop_times(const models::StepTime& step_time, const models::EngineConstants& constants,
                                  const ClosedLoop& loop);

}  // namespace evictsim::sim

#pragma once
/// \file
/// Closed form of what a closed loop of equal requests measures on one replica with continuous batching and chunked
/// prefill: as soon as a request ends, the next one arrives. No events are simulated. Derivation: docs/accuracy.md.

#include "models/engine.h"
#include "models/step_time.h"

namespace evictsim::sim {

struct ClosedLoopLoad {
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
                                  const ClosedLoopLoad& loop);

/// Replicas that compute prompts and their first tokens, for others that decode.
struct PrefillReplicas {
  double per_decode_replica = 1;  ///< number of them over the number of those that decode
  double prompts_at_once = 1;     ///< copies of attention
  double transfer_seconds = 0;    ///< of a prompt's cache
};

/// The same where prompts are computed elsewhere: `loop` is of one replica that decodes, with the requests in flight
/// that fall to it, queued and computed prompts among them.
ClosedLoopTimes disaggregated_times(const models::StepTime& prefill_time, const models::StepTime& decode_time,
                                    const models::EngineConstants& constants, const ClosedLoopLoad& loop,
                                    const PrefillReplicas& replicas);

}  // namespace evictsim::sim

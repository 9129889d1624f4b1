#pragma once
/// \file
/// What the parts of one serving simulation share.

#include <cstdint>
#include <vector>

#include "sim/engine/event_queue.h"
#include "sim/serving/sequence.h"
#include "sim/serving/serving.h"

namespace evictsim::sim {

struct ServingEvent {
  enum class Kind : std::uint8_t {
    arrival,      ///< subject: sequence
    steps_end,    ///< subject: replica, with its microbatch
    batch_wait,   ///< subject: replica
    transferred,  ///< subject: transfer
    copied        ///< subject: replica, over the links of its tiers
  };
  Kind kind = Kind::arrival;
  std::uint32_t subject = 0;
  std::uint32_t microbatch = 0;
};

struct ServingState {
  explicit ServingState(const ServingOptions& all) : options(all) {}

  const ServingOptions& options;
  EventQueue<ServingEvent> events;
  SequenceStore sequences;
  std::vector<RequestRecord> requests;
  std::int64_t in_system = 0;  ///< queued and not finished
  std::int64_t running = 0;    ///< of them, those in batches

  RequestRecord& record(SequenceId id) { return requests[sequences[id].request]; }
};

}  // namespace evictsim::sim

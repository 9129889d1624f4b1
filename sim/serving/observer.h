#pragma once
/// \file
/// What a serving simulation tells while it runs, for timelines.

#include <cstddef>
#include <cstdint>

#include "models/step_time.h"
#include "sim/engine/time.h"

namespace evictsim::sim {

struct RequestRecord;

/// Successive steps of one batch that did not change.
struct StepsEvent {
  int replica = 0;     ///< with disaggregation the decode replicas follow the prefill replicas
  int microbatch = 0;  ///< of a pipeline
  Time begin = 0, end = 0;
  std::int64_t steps = 0;
  models::StepWork first;  ///< work of the first one
};

/// A copy of one request's KV cache between two replicas.
struct TransferEvent {
  std::size_t request = 0;  ///< index of its RequestRecord
  int from = 0, to = 0;     ///< replicas
  Time begin = 0, end = 0;
  double bytes = 0;
};

/// A copy between a replica and its tiers.
struct CopyEvent {
  enum class Kind : std::uint8_t { load, swap_out, swap_in, recall };
  Kind kind = Kind::load;
  std::size_t request = 0;  ///< index of its RequestRecord
  int replica = 0;
  Time begin = 0, end = 0;
  std::int64_t bytes = 0;
};

/// Hooks are called in the order of time, except that steps, transfers and copies are told when they end. The
/// simulation does not depend on them; an observer overrides those it wants.
class ServingObserver {
 public:
  ServingObserver() = default;
  ServingObserver(const ServingObserver&) = delete;
  ServingObserver& operator=(const ServingObserver&) = delete;
  virtual ~ServingObserver() = default;

  virtual void steps(const StepsEvent& /*event*/) {}
  /// A request got its place in a batch, for the first time or again; `cached` tokens need no computing.
  virtual void admitted(Time /*time*/, std::size_t /*request*/, int /*replica*/, std::int64_t /*cached*/) {}
  virtual void preempted(Time /*time*/, std::size_t /*request*/, int /*replica*/, bool /*swapped*/) {}
  virtual void transferred(const TransferEvent& /*event*/) {}
  virtual void copied(const CopyEvent& /*event*/) {}
  /// Completed or refused.
  virtual void finished(const RequestRecord& /*record*/) {}
};

}  // namespace evictsim::sim

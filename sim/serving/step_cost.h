#pragma once
/// \file
/// What the serving simulation asks of a replica's hardware: how long a step takes. An interface, so that queues whose
/// waiting times are known in closed form can be simulated too.

#include <memory>

#include "models/step_time.h"

namespace evictsim::sim {

class StepCost {
 public:
  StepCost() = default;
  StepCost(const StepCost&) = delete;
  StepCost& operator=(const StepCost&) = delete;
  virtual ~StepCost() = default;

  /// Time of one step through all stages of the pipeline. Must be `of(the same without entries) + per_decode_entry() *
  /// decode_entries` in integers, never negative, and a pure function of `work`. The simulation asks for steps without
  /// decode entries only and adds those itself. A step of less than 1 ns takes 1 ns.
  [[nodiscard]] virtual models::Femtoseconds of(const models::StepWork& work) const = 0;
  [[nodiscard]] virtual models::Femtoseconds per_decode_entry() const = 0;
  /// Between the arrival of a request and its place in the queue. Does not occupy the replica.
  [[nodiscard]] virtual models::Femtoseconds per_request() const = 0;
};

/// The calibrated model of models/step_time.h.
std::shared_ptr<const StepCost> modelled_step_cost(models::StepTime step_time);

}  // namespace evictsim::sim

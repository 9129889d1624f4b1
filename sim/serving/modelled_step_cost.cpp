#include <utility>

#include "sim/serving/step_cost.h"

namespace evictsim::sim {
namespace {

class ModelledStepCost final : public StepCost {
 public:
  explicit ModelledStepCost(models::StepTime step_time) : step_time_(std::move(step_time)) {}
  [[nodiscard]] models::Femtoseconds of(const models::StepWork& work) const override { return step_time_.of(work); }
  [[nodiscard]] models::Femtoseconds per_decode_entry() const override { return step_time_.per_decode_entry(); }
  [[nodiscard]] models::Femtoseconds per_request() const override { return step_time_.per_request(); }

 private:
  models::StepTime step_time_;
};

}  // namespace

std::shared_ptr<const StepCost> modelled_step_cost(models::StepTime step_time) {
  return std::make_shared<ModelledStepCost>(std::move(step_time));
}

}  // namespace evictsim::sim

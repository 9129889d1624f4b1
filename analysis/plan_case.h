#pragma once
/// \file
/// One question of a plan, and its answer by simulation: how does this deployment serve this workload, how much of it
/// within an objective, or with how few GPUs?

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "analysis/plan_file.h"
#include "analysis/plan_row.h"
#include "sim/serving/deployed_model.h"
#include "sim/serving/service_metrics.h"
#include "sim/serving/serving.h"
#include "sim/serving/workload_source.h"

namespace evictsim::analysis {

enum class PlanQuestion : std::uint8_t {
  service,      ///< the deployment as it is
  goodput,      ///< the largest rate that meets the objective
  fewest_gpus,  ///< the smallest number of replicas that meets the objective at the rate
};

struct PlanCase {
  sim::ServingSetup setup;
  std::shared_ptr<const sim::ServingWorkload> workload;
  sim::Load load;
  std::optional<sim::ServiceObjective> objective;  ///< needed by the last two questions
  std::string objective_text;
  PlanQuestion question = PlanQuestion::service;
  int replications = 3;  ///< seeds over which goodput is averaged and GPUs must suffice; 1 where nothing is random
};

struct PlanAnswer {
  PlanRow row;
  PlanBackground background;
  sim::ServingResult result;     ///< of the run that the row shows
  double simulated_seconds = 0;  ///< over all runs
};

/// What is told while a question is answered; each may be empty.
struct PlanHooks {
  /// With the options of the run that the row shows, before it begins.
  std::function<void(sim::ServingOptions&)> before_run;
  /// What a search tries next, "12 replicas"; from several threads, at the same time.
  std::function<void(const std::string& tried)> searching;
};

/// The settings of the row, nothing else.
PlanRow settings_of(const PlanCase& plan);

/// Runs to the end or throws Error: what sim::deploy(), the workload's source and sim::serve() throw, and
/// invalid_argument for a question without an objective, a rate search of a closed loop, and an objective that no rate
/// or number of GPUs meets.
PlanAnswer answer(const PlanCase& plan, const PlanHooks& hooks = {});

/// Of the first requests of the workload.
struct MeanLengths {
  double prompt = 0, output = 0;  ///< tokens
};
MeanLengths mean_lengths(const PlanCase& plan);

/// A rate to begin a search for goodput with: what a full batch of mean requests gives in a steady state.
double first_guess(const sim::DeployedModel& deployed, const PlanCase& plan);

}  // namespace evictsim::analysis

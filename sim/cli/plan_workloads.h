#pragma once
/// \file
/// The workloads of `evictsim plan`: traces, and what is made up in every combination of the options about that.

#include <memory>
#include <string>
#include <vector>

#include "sim/cli/plan_cases.h"
#include "sim/serving/workload_source.h"

namespace evictsim {

struct NamedWorkload {
  std::string text;  ///< as given; of a trace its path
  std::shared_ptr<const sim::ServingWorkload> workload;
};

/// `texts`: the elements of --workload, no replays among them. Throws Error: what ServingWorkload::find() throws;
/// invalid_argument for options about made-up workloads where there is none.
std::vector<NamedWorkload> plan_workloads(const PlanArguments& arguments, const std::vector<std::string>& texts);

}  // namespace evictsim

#pragma once
/// \file
/// What `evictsim plan --explain` and its listings print.

#include <string>

#include "analysis/plan_case.h"

namespace evictsim {

/// The KV budget line by line, and every term of the times of representative steps. Throws what sim::deploy() throws.
std::string explain(const analysis::PlanCase& plan);

/// Known models, GPUs, engines and memories of tiers, a line each, from the data files found.
std::string list_models();
std::string list_gpus();
std::string list_engines();
std::string list_storage();

}  // namespace evictsim

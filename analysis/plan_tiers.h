#pragma once
/// \file
/// What tiers below the replicas add to the rows of a plan.

#include "analysis/plan_row.h"
#include "sim/serving/deployed_model.h"
#include "sim/serving/service_metrics.h"

namespace evictsim::analysis {

/// The columns of settings; those of tiers that are not there stay without a value.
void set_tiers(const sim::TiersSetup& setup, PlanRow& row);
/// The columns of results. host_bytes_peak is 0 without a host tier.
void fill_tiers(const sim::ServingOptions& options, const sim::ServiceMetrics& metrics, PlanRow& row);

}  // namespace evictsim::analysis

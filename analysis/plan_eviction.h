#pragma once
/// \file
/// What eviction adds to the rows of a plan.

#include <span>

#include "analysis/plan_row.h"
#include "sim/serving/profiled_cache.h"
#include "sim/serving/serving.h"

namespace evictsim::analysis {

/// Fills recall_bytes_per_second, and adds to host_bytes_peak what the policy keeps there: the largest sum over
/// requests between their first and last tokens.
void fill_eviction(const sim::CacheProfile& profile, const sim::ServingResult& result, double kv_bytes_per_token,
                   PlanRow& row);

/// Marks which rows are on the frontier of quality and throughput: 1 if no other row is at least as good in both and
/// better in one, else 0. Quality is predicted KL where every row has one, else output error. Throughput is goodput
/// where it was searched, GPUs needed where these were counted, else output tokens per second. Rows that failed or lack
/// a number get no mark.
void mark_frontier(std::span<PlanRow> rows, bool fewest_gpus);

}  // namespace evictsim::analysis

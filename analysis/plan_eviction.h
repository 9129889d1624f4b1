#pragma once
/// \file
/// What eviction adds to the rows of a plan.

#include <span>
#include <string>

#include "analysis/plan_row.h"
#include "sim/serving/profiled_cache.h"
#include "sim/serving/serving.h"

namespace evictsim::analysis {

/// Fills recall_bytes_per_second. Without tiers, which count it themselves, also host_bytes_peak with what the policy
/// keeps there: the largest sum over requests between their first and last tokens.
void fill_eviction(const sim::CacheProfile& profile, const sim::ServingResult& result, double kv_bytes_per_token,
                   bool tiers, PlanRow& row);

/// Whether this policy, as a row names it, sees the future. Policies that this program does not know do not.
bool is_oracle(const std::string& policy);

/// Marks which rows are on the frontier of quality and throughput: 1 if no other row is at least as good in both and
/// better in one, else 0. Quality is predicted KL where every row has one, else output error. Throughput is goodput
/// where it was searched, GPUs needed where these were counted, else output tokens per second. Rows that failed or lack
/// a number get no mark. Oracles cannot be deployed: they are not on the frontier, and beat nobody.
void mark_frontier(std::span<PlanRow> rows, bool fewest_gpus);

}  // namespace evictsim::analysis

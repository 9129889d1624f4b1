#pragma once
/// \file
/// Memory profiles of policies from a run file, for serving: what a replay of some sequences says about sequences of
/// any length. The rules are our inference and stand in docs/serving.md, "Eviction".

#include <cstdint>
#include <string>
#include <vector>

#include "analysis/run_file_profile.h"
#include "sim/serving/profiled_cache.h"

namespace evictsim::analysis {

/// What heads of different lengths cost.
enum class PageRule : std::uint8_t {
  longest,   ///< all heads of a layer have the pages, and are read like, its longest one: today's paged kernels
  per_head,  ///< every head has pages of its own
};

/// One profile per policy and budget, in the order of their first rows.
std::vector<sim::CacheProfile> memory_profiles(const std::vector<RecordedCache>& caches, PageRule rule);

/// The profile of a policy at a budget, however the budget is spelt. Throws Error(unknown_name), naming what `file`
/// holds, if there is none.
const sim::CacheProfile& find_profile(const std::vector<sim::CacheProfile>& profiles, const std::string& policy,
                                      const std::string& budget, const std::string& file);

}  // namespace evictsim::analysis

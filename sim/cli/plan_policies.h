#pragma once
/// \file
/// The eviction policies of `evictsim plan`: --policy, --budget, --profile, --pages.

#include <memory>
#include <string>
#include <vector>

#include "analysis/memory_profile.h"
#include "sim/serving/profiled_cache.h"

namespace evictsim {

struct PolicyArguments {
  std::vector<std::string> policies, budgets;  ///< lists without their commas; none: all that the file holds
  std::string profile;                         ///< run.h5
  std::string pages = "longest";
};

/// Of --pages. Throws Error(unknown_name).
analysis::PageRule page_rule(const std::string& name);

/// What is kept in each row, the full cache (null) first. Throws Error: what reading the file throws; unknown_name for
/// policies and budgets that it does not hold, with those that it does; invalid_argument for a policy without a file.
std::vector<std::shared_ptr<const sim::CacheProfile>> plan_profiles(const PolicyArguments& arguments);

}  // namespace evictsim

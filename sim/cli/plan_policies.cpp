#include "sim/cli/plan_policies.h"

#include <algorithm>

#include "policies/budget.h"
#include "traces/error.h"

namespace evictsim {
namespace {

constexpr const char* full = "full";
constexpr const char* all = "all";

[[noreturn]] void refuse(const char* option, const char* what, const std::string& value = {}) {
  throw Error(ErrorCode::invalid_argument, what, {.parameter = option, .value = value});
}

}  // namespace

analysis::PageRule page_rule(const std::string& name) {
  if (name == "longest") return analysis::PageRule::longest;
  if (name == "per_head") return analysis::PageRule::per_head;
  throw Error(ErrorCode::unknown_name, "expected longest or per_head", {.parameter = "--pages", .value = name});
}

std::vector<std::shared_ptr<const sim::CacheProfile>> plan_profiles(const PolicyArguments& arguments) {
  std::vector<std::shared_ptr<const sim::CacheProfile>> chosen = {nullptr};
  const analysis::PageRule rule = page_rule(arguments.pages);
  if (arguments.profile.empty()) {
    for (const std::string& policy : arguments.policies) {
      if (policy != full) refuse("--policy", "needs --profile run.h5, a replay of that policy", policy);
    }
    if (!arguments.budgets.empty()) refuse("--budget", "needs --profile run.h5, a replay of policies at these budgets");
    return chosen;
  }
  const std::vector<sim::CacheProfile> profiles =
      analysis::memory_profiles(analysis::read_recorded_caches(arguments.profile), rule);
  if (profiles.empty()) {
    throw Error(ErrorCode::missing_data, "holds no row that did not fail", {.file = arguments.profile});
  }
  const auto add = [&](const sim::CacheProfile& profile) {
    const auto same = [&](const auto& known) {
      return known && known->policy == profile.policy && known->budget == profile.budget;
    };
    if (std::any_of(chosen.begin(), chosen.end(), same)) return;
    chosen.push_back(std::make_shared<const sim::CacheProfile>(profile));
  };
  for (const std::string& budget : arguments.budgets) (void)policies::Budget::parse(budget);
  std::vector<std::string> names = arguments.policies;
  if (names.empty() || std::find(names.begin(), names.end(), all) != names.end()) {
    names.clear();
    for (const sim::CacheProfile& profile : profiles) {
      if (std::find(names.begin(), names.end(), profile.policy) == names.end()) names.push_back(profile.policy);
    }
  }
  for (const std::string& name : names) {
    if (name == full) continue;
    for (const std::string& budget : arguments.budgets) {
      add(analysis::find_profile(profiles, name, budget, arguments.profile));
    }
    if (!arguments.budgets.empty()) continue;
    const std::size_t before = chosen.size();
    for (const sim::CacheProfile& profile : profiles) {
      if (profile.policy == name) add(profile);
    }
    if (chosen.size() == before) (void)analysis::find_profile(profiles, name, "1", arguments.profile);
  }
  return chosen;
}

}  // namespace evictsim

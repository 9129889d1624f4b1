#pragma once
/// \file
/// Parameters of learned scorers that the presets of their systems hand on to them, declared once for both.

#include <string>
#include <vector>

#include "policies/parameters.h"

namespace evictsim::policies {

/// gate (`default_gate` unless given), weights, lookahead, age_offset and knorm_alpha: the scorer retention.
std::vector<ParameterSpec> retention_parameters(const std::string& default_gate);
/// The scorer kvp_agents.
std::vector<ParameterSpec> kvp_agent_parameters();
/// The scorer foresightkv_priority.
std::vector<ParameterSpec> foresightkv_parameters();
/// The oracle golden_utility.
std::vector<ParameterSpec> golden_eviction_parameters();
/// The scorer fastkvzip_gate.
std::vector<ParameterSpec> fastkvzip_parameters();
/// The scorer lkv_tokens; its budgets: the allocator head_embeddings.
std::vector<ParameterSpec> lkv_token_parameters();
ParameterSpec lkv_floor_parameter();
/// First and last tokens that stay: KVP and its oracle keep 4 and 16, LKV-like 4 and 32.
std::vector<ParameterSpec> end_parameters(const std::string& recent);
/// The values of `end_parameters` as protections of a policy.
std::string end_protections(const Parameters& parameters);

}  // namespace evictsim::policies

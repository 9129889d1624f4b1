#pragma once
/// \file
/// From the options of `evictsim plan` to the questions that they ask: the product of all lists.

#include <array>
#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "analysis/plan_case.h"
#include "analysis/run_file.h"
#include "sim/cli/plan_policies.h"

namespace evictsim {

/// Memory below the replicas; for each of it GiB per GPU as lists, and what it is.
struct TierArguments {
  struct Tier {
    const char* name;
    std::vector<std::string> gib;
    std::string storage;
    std::optional<double> gigabytes_per_second;
  };
  std::array<Tier, 3> tiers = {Tier{"host", {}, {}, {}}, Tier{"disk", {}, {}, {}}, Tier{"remote", {}, {}, {}}};
  std::vector<std::string> policies, writes, rules;
  std::int64_t chunk_tokens = 0;
  bool layer_overlap = false;
};

/// The options as given. Lists hold what stood behind each mention of an option, commas included.
struct PlanArguments {
  std::vector<std::string> models, gpus, engines, workloads;
  std::vector<std::string> tensor_parallel, pipeline_parallel, attention_data_parallel, expert_parallel, replicas,
      disaggregate;
  std::vector<std::string> weights, kv_types, memory_shares, token_budgets, max_sequences, kv_blocks;
  std::vector<std::string> batching, preemption, routing;
  std::vector<std::string> rates, scale_rates, seeds;
  std::vector<std::string> prompts, outputs, lengths, prefix_groups, prefix_tokens, turns, think_times;
  std::vector<std::string> objectives;
  PolicyArguments eviction;  ///< lists with their commas
  TierArguments tiers;
  std::optional<double> duration, transfer_gigabytes;
  std::optional<std::int64_t> requests_count;
  bool prefix_cache = true, chunked_prefill = true;
  bool goodput = false, min_gpus = false, explain = false, quiet = false;
  int replications = 3, threads = 0;
  std::string csv, plan_file, requests, timeline, points;
  bool list_models = false, list_gpus = false, list_engines = false, list_storage = false;
  std::string command_line;  ///< as typed
};

struct PlanCases {
  std::vector<analysis::PlanCase> cases;  ///< the last list varies fastest
  std::vector<analysis::Provenance::Input> inputs;
  std::vector<std::string> warnings;
  std::size_t policies = 1;  ///< so many neighbours differ in nothing but what is kept
};

/// Reads everything that is named. Throws Error for what does not exist, with the nearest names, and for what is
/// malformed. `stop` interrupts simulations; it must outlive the cases.
PlanCases plan_cases(const PlanArguments& arguments, const std::atomic<bool>& stop);

}  // namespace evictsim

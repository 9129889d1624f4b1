#pragma once
/// \file
/// From the options of `evictsim plan` to the questions that they ask: the product of all lists.

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "analysis/plan_case.h"
#include "analysis/run_file.h"
#include "sim/cli/plan_policies.h"

namespace evictsim {

/// The options as given. Lists hold what stood behind each mention of an option, commas included.
struct PlanArguments {
  std::vector<std::string> models, gpus, engines, workloads;
  std::vector<std::string> tensor_parallel, pipeline_parallel, expert_parallel, replicas, disaggregate;
  std::vector<std::string> weights, kv_types, memory_shares, token_budgets, max_sequences, kv_blocks;
  std::vector<std::string> batching, preemption, routing;
  std::vector<std::string> rates, scale_rates, seeds;
  std::vector<std::string> prompts, outputs, lengths, prefix_groups, prefix_tokens, turns, think_times;
  std::vector<std::string> objectives;
  PolicyArguments eviction;  ///< lists with their commas
  std::optional<double> duration, host_memory_gib, transfer_gigabytes;
  std::optional<std::int64_t> requests_count;
  bool prefix_cache = true, chunked_prefill = true;
  bool goodput = false, min_gpus = false, explain = false, quiet = false;
  int replications = 3, threads = 0;
  std::string csv, plan_file, requests, timeline, points;
  bool list_models = false, list_gpus = false, list_engines = false;
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

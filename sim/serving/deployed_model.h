#pragma once
/// \file
/// From what a user names (model, GPU, engine, layout) to the options of a serving simulation.

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "models/deployment.h"
#include "models/engine.h"
#include "models/gpu.h"
#include "models/kv_budget.h"
#include "models/llm.h"
#include "models/step_time.h"
#include "sim/serving/profiled_cache.h"
#include "sim/serving/serving.h"
#include "sim/serving/tier_setup.h"

namespace evictsim::sim {

/// KV blocks over all replicas: each takes some 40 bytes of this program's memory.
inline constexpr std::int64_t most_blocks = 50'000'000;

struct DisaggregatedReplicas {
  int prefill = 1, decode = 1;
};

/// What is not given is the engine's default.
struct ServingSetup {
  std::shared_ptr<const models::Llm> llm;
  std::shared_ptr<const models::Gpu> gpu;
  std::shared_ptr<const models::Engine> engine;
  models::Deployment deployment;
  int replicas = 1;
  std::optional<DisaggregatedReplicas> disaggregation;  ///< then `replicas` is not used
  std::optional<double> memory_share;
  std::optional<std::int64_t> token_budget, max_sequences;
  std::optional<std::int64_t> kv_blocks;  ///< of a replica, instead of the KV budget's
  Batching batching = Batching::continuous;
  Preemption preemption = Preemption::recompute;
  Routing routing = Routing::round_robin;
  bool prefix_cache = true, chunked_prefill = true;
  TiersSetup tiers;                                         ///< below each replica
  std::optional<double> transfer_bytes_per_second_per_gpu;  ///< between prefill and decode replicas
  std::shared_ptr<const CacheProfile> profile;              ///< of an eviction policy; null: everything is kept
  bool recorded = false;  ///< requests have caches of their own (RecordedWorkload); `profile` only names them

  [[nodiscard]] int replica_count() const {
    return disaggregation ? disaggregation->prefill + disaggregation->decode : replicas;
  }
  [[nodiscard]] int gpus() const { return replica_count() * deployment.gpus(); }
};

struct DeployedModel {
  models::KvBudget budget;  ///< of one GPU; empty where ServingSetup::kv_blocks says all
  models::StepTime step_time;
  ServingOptions options;
  /// Tokens whose keys and values a replica holds.
  [[nodiscard]] std::int64_t kv_tokens() const {
    const ReplicaGroup& group = options.disaggregation ? options.disaggregation->decode : options.replicas;
    return group.blocks * group.block_tokens;
  }
};

/// Throws Error: out_of_memory if the model does not fit, by how much and what would fit; invalid_argument for counts
/// below 1 and layouts that the model does not allow; missing_data for a rate that the GPU's description lacks.
DeployedModel deploy(const ServingSetup& setup);

}  // namespace evictsim::sim

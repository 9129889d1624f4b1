#include "sim/serving/deployed_model.h"

#include <fmt/format.h>

#include <cmath>
#include <string>

#include "sim/serving/mixed_cache.h"
#include "sim/serving/recorded_cache.h"
#include "traces/error.h"

namespace evictsim::sim {
namespace {

void require_positive(const char* option, std::int64_t value) {
  if (value >= 1) return;
  throw Error(ErrorCode::invalid_argument, "expected at least 1",
              {.parameter = option, .value = fmt::format("{}", value)});
}

/// A link of each GPU to its partner, all at once.
CopyRate copy_rate(const std::optional<models::TransferRate>& link, const models::Gpu& gpu, int gpus,
                   const char* what) {
  if (!link || !(link->bytes_per_second > 0)) {
    throw Error(ErrorCode::missing_data, fmt::format("the description has no rate of {}", what),
                {.parameter = "--gpu", .value = gpu.name});
  }
  return {from_seconds(link->latency_seconds.value_or(0)), link->bytes_per_second * gpus};
}

/// `tiers` of a replica of `gpus`; none: the host's memory is reached over the GPU's link.
std::shared_ptr<const ResidentCache> evicting_cache(const ServingSetup& setup, double kv_bytes_per_token,
                                                    const std::optional<KvTiers>& tiers, int gpus) {
  double seconds = 0;
  if (setup.profile->recalled > 0) {
    const double rate =
        tiers ? static_cast<double>(tiers->tiers.front().link.up.bytes_per_second)
              : copy_rate(setup.gpu->host_to_device, *setup.gpu, gpus, "copies from the host").bytes_per_second;
    seconds = evictable_share(*setup.llm) * kv_bytes_per_token / rate;
  }
  auto evicting = profiled_cache(*setup.profile, seconds);
  return evicting ? mixed_cache(*setup.llm, std::move(evicting)) : resident_cache(*setup.llm);
}

}  // namespace

DeployedModel deploy(const ServingSetup& setup) {
  const models::Engine& engine = *setup.engine;
  const models::Gpu& gpu = *setup.gpu;
  const models::Deployment deployment = models::checked(*setup.llm, setup.deployment);
  models::KvBudgetOptions memory;
  memory.memory_share = setup.memory_share.value_or(engine.memory_share);
  memory.block_tokens = static_cast<int>(engine.block_tokens);
  memory.token_budget = setup.token_budget.value_or(engine.token_budget);
  memory.max_sequences = setup.max_sequences.value_or(engine.max_sequences);
  require_positive("--token-budget", memory.token_budget);
  require_positive("--max-sequences", memory.max_sequences);
  require_positive("--replicas", setup.replicas);
  if (setup.kv_blocks) require_positive("--kv-blocks", *setup.kv_blocks);

  DeployedModel deployed{{}, models::StepTime(*setup.llm, gpu, engine, deployment), {}};
  if (!setup.kv_blocks) deployed.budget = models::kv_budget(*setup.llm, gpu, engine.kv_overhead, deployment, memory);
  const double bytes_per_token = models::kv_bytes_per_token(*setup.llm, deployment);

  ReplicaGroup group;
  group.step_cost = modelled_step_cost(deployed.step_time);
  group.resident = resident_cache(*setup.llm);
  group.replicas = setup.replicas;
  group.pipeline_stages = deployment.pipeline_parallel;
  group.block_tokens = memory.block_tokens;
  // Copies of attention are told apart neither in memory nor in the scheduler: a replica has what all of them have.
  const int copies = deployment.attention_data_parallel;
  group.token_budget = memory.token_budget * copies;
  group.max_sequences = memory.max_sequences * copies;
  // Where layers keep different numbers of tokens, a block of the simulation is one of all layers.
  group.blocks = setup.kv_blocks ? *setup.kv_blocks
                 : group.resident
                     ? static_cast<std::int64_t>(static_cast<double>(deployed.budget.kv_bytes) /
                                                 (bytes_per_token * static_cast<double>(memory.block_tokens)))
                     : deployed.budget.blocks;
  if (!setup.kv_blocks) group.blocks *= copies;
  if (group.blocks < 1) {
    throw Error(ErrorCode::out_of_memory, "memory for keys and values is less than one block of all layers",
                {.parameter = "--memory-share", .value = fmt::format("{}", memory.memory_share)});
  }
  if (group.blocks > most_blocks / setup.replica_count()) {
    throw Error(ErrorCode::invalid_argument,
                fmt::format("{} replicas of {} KV blocks are more than {} in all", setup.replica_count(), group.blocks,
                            most_blocks),
                {.parameter = setup.kv_blocks ? "--kv-blocks" : "--replicas"});
  }

  ServingOptions& options = deployed.options;
  const int gpus = deployment.gpus();
  options.kv_bytes_per_token = bytes_per_token * gpus / copies;
  const TieredReplica tiered{gpus, static_cast<int>(setup.llm->layers.size()), memory.block_tokens,
                             std::llround(options.kv_bytes_per_token * memory.block_tokens)};
  options.tiers = kv_tiers(setup.tiers, gpu, tiered, setup.preemption == Preemption::swap || setup.recorded);

  if (setup.recorded) {
    if (group.resident) {
      throw Error(ErrorCode::unsupported, "recorded sequences are served by models all of whose layers keep everything",
                  {.parameter = "--model", .value = setup.llm->name});
    }
    group.resident = full_recorded_cache();
  } else if (setup.profile) {
    group.resident = evicting_cache(setup, options.kv_bytes_per_token, options.tiers, gpus);
  }

  options.batching = setup.batching;
  options.chunked_prefill = setup.chunked_prefill;
  options.prefix_cache = setup.prefix_cache;
  options.preemption = setup.preemption;
  options.routing = setup.routing;
  if (setup.disaggregation) {
    require_positive("--disaggregate", setup.disaggregation->prefill);
    require_positive("--disaggregate", setup.disaggregation->decode);
    Disaggregation disaggregation{group, {}};
    disaggregation.decode.replicas = setup.disaggregation->decode;
    group.replicas = setup.disaggregation->prefill;
    disaggregation.link = setup.transfer_bytes_per_second_per_gpu
                              ? CopyRate{0, *setup.transfer_bytes_per_second_per_gpu * gpus}
                              : copy_rate(gpu.peer, gpu, gpus, "copies to another GPU: give --transfer-bandwidth");
    options.disaggregation = std::move(disaggregation);
  }
  options.replicas = std::move(group);
  return deployed;
}

}  // namespace evictsim::sim

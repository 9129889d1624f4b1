#include "sim/serving/serving.h"

#include <string>

#include "sim/serving/simulation.h"
#include "traces/error.h"

namespace evictsim::sim {
namespace {

void require(bool holds, const char* parameter, const std::string& value, const char* right) {
  if (!holds) throw Error(ErrorCode::invalid_argument, right, {.parameter = parameter, .value = value});
}

void check_rate(const CopyRate& rate, const char* parameter) {
  require(rate.bytes_per_second > 0, parameter, std::to_string(rate.bytes_per_second),
          "expected more than 0 bytes per second");
  require(rate.latency >= 0, parameter, std::to_string(rate.latency), "expected a latency that is not negative");
}

void check_group(const ReplicaGroup& group) {
  const auto at_least_one = [](const char* parameter, std::int64_t value) {
    require(value >= 1, parameter, std::to_string(value), "expected at least 1");
  };
  require(group.step_cost != nullptr, "step cost", "none", "expected one");
  require(group.step_cost->per_decode_entry() >= 0, "per_decode_entry",
          std::to_string(group.step_cost->per_decode_entry()), "expected a time that is not negative");
  require(group.step_cost->per_request() >= 0 && group.step_cost->per_request() <= longest_step, "per_request",
          std::to_string(group.step_cost->per_request()), "expected a time from 0 to an hour");
  require(!group.resident || group.resident->units_per_entry() >= 1, "units_per_entry", "below 1",
          "expected at least 1");
  at_least_one("replicas", group.replicas);
  require(group.replicas <= 65536, "replicas", std::to_string(group.replicas), "expected at most 65536");
  at_least_one("pipeline stages", group.pipeline_stages);
  require(group.pipeline_stages <= 1024, "pipeline stages", std::to_string(group.pipeline_stages),
          "expected at most 1024");
  at_least_one("KV blocks", group.blocks);
  at_least_one("tokens per block", group.block_tokens);
  at_least_one("token budget", group.token_budget);
  at_least_one("max sequences", group.max_sequences);
}

}  // namespace

const char* to_string(RequestStatus status) noexcept {
  switch (status) {
    case RequestStatus::unfinished:
      return "unfinished";
    case RequestStatus::completed:
      return "completed";
    case RequestStatus::too_long:
      return "too_long";
  }
  return "";
}

void CountTime::add(std::int64_t count, Time duration) {
  seconds += count * (duration / nanoseconds_per_second);
  nanoseconds += count * (duration % nanoseconds_per_second);
  seconds += nanoseconds / nanoseconds_per_second;
  nanoseconds %= nanoseconds_per_second;
}

void check_options(const ServingOptions& options) {
  check_group(options.replicas);
  if (options.disaggregation) {
    check_group(options.disaggregation->decode);
    check_rate(options.disaggregation->link, "link between replicas");
  }
  require(options.kv_bytes_per_token >= 0, "KV bytes per token", std::to_string(options.kv_bytes_per_token),
          "expected a number that is not negative");
  require(options.preemption != Preemption::swap || options.tiers, "tiers", "none", "expected one to swap to");
  if (options.tiers) {
    check_tiers(*options.tiers);
    require(options.kv_bytes_per_token * options.replicas.block_tokens >= 0.5, "KV bytes per token",
            std::to_string(options.kv_bytes_per_token), "expected at least 1 byte per block");
    if (options.tiers->overlapped_layers > 1 && options.replicas.pipeline_stages > 1) {
      throw Error(ErrorCode::unsupported, "loads are not overlapped in a pipeline: expected one stage",
                  {.parameter = "overlapped layers", .value = std::to_string(options.tiers->overlapped_layers)});
    }
    if (options.batching == Batching::whole_batch && options.prefix_cache &&
        options.tiers->write_down != WriteDown::none) {
      throw Error(ErrorCode::unsupported, "whole batches do not wait for loads: expected continuous batching",
                  {.parameter = "batching", .value = "whole_batch"});
    }
  }
  require(options.routing_imbalance >= 0, "routing imbalance", std::to_string(options.routing_imbalance),
          "expected a number that is not negative");
  require(options.limit >= 0, "limit", std::to_string(options.limit), "expected a time that is not negative");
  require(options.batch_wait >= 0 && options.batch_wait <= longest_step / femtoseconds_per_nanosecond, "batch wait",
          std::to_string(options.batch_wait), "expected a time from 0 to an hour");
  require(options.sample_period >= 1, "sample period", std::to_string(options.sample_period),
          "expected at least 1 nanosecond");
  require(options.most_samples >= 2, "most samples", std::to_string(options.most_samples), "expected at least 2");
  if (options.batching == Batching::whole_batch && (options.disaggregation || options.replicas.pipeline_stages > 1)) {
    throw Error(ErrorCode::unsupported,
                "whole batches run neither on disaggregated replicas nor in a pipeline: expected continuous batching",
                {.parameter = "batching", .value = "whole_batch"});
  }
}

ServingResult serve(const ServingOptions& options, RequestSource& source) {
  check_options(options);
  return Simulation(options, source).run();
}

}  // namespace evictsim::sim

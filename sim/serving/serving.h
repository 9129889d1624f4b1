#pragma once
/// \file
/// Discrete-event simulation of serving a language model: requests arrive, wait, are batched step by step on replicas
/// with paged KV memory, and leave. Semantics, and what is not modelled: docs/serving.md. The scheduler follows vLLM's
/// V1 engine (Kwon and others: PagedAttention, SOSP 2023; chunked prefill: Agrawal and others, arXiv:2403.02310);
/// disaggregation follows Zhong and others: DistServe, OSDI 2024.
///
/// Cost grows with changes of batches, not with tokens: steps of an unchanged batch are advanced at once, since their
/// times are an exact arithmetic progression of integers. `step_by_step` takes them one by one, with equal results.
///
/// Every simulation ends. Time: a step takes at least 1 ns, so no instant holds infinitely many events. Progress: a
/// request that could not hold its full length alone in a replica is refused when it arrives. Of the admitted ones the
/// oldest is preempted only when no younger one is left to give way, thus holds all the memory there is, and fits; so
/// it computes at least one token per step until it is done, and the next one follows. Input: the source is asked for
/// at most `most_requests`.

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "sim/engine/time.h"
#include "sim/serving/kv_tiers.h"
#include "sim/serving/observer.h"
#include "sim/serving/resident_cache.h"
#include "sim/serving/step_cost.h"
#include "traces/workload/workload.h"

namespace evictsim::sim {

enum class Batching : std::uint8_t {
  continuous,   ///< requests join and leave at any step
  whole_batch,  ///< a batch is collected, and runs to its last token before the next one begins (static batching)
};
enum class Preemption : std::uint8_t {
  recompute,  ///< the cache of a preempted request is dropped and computed again
  swap,       ///< it is copied to the first tier and back; recomputed when that is full
};
enum class Routing : std::uint8_t {
  round_robin,
  least_loaded,  ///< fewest unfinished requests
  prefix_aware,  ///< most cached tokens of the prompt; the least loaded one when loads differ too much
};

/// Time of a copy one way: latency + bytes / bandwidth.
struct CopyRate {
  Time latency = 0;
  double bytes_per_second = 0;  ///< above 0
};

/// Equal replicas, each with its own queue and KV memory.
struct ReplicaGroup {
  std::shared_ptr<const StepCost> step_cost;
  std::shared_ptr<const ResidentCache> resident;  ///< null: everything is kept and read
  int replicas = 1;
  /// Stages that a step passes; as many microbatches are on their way. More than 1 is simulated step by step.
  int pipeline_stages = 1;
  std::int64_t blocks = 0;  ///< of KV memory
  int block_tokens = 16;
  std::int64_t token_budget = 2048;  ///< tokens computed per step
  std::int64_t max_sequences = 256;  ///< in the batch, over all microbatches
};

/// Prompts are computed by ServingOptions::replicas, the other tokens here, after the KV cache was copied.
struct Disaggregation {
  ReplicaGroup decode;
  CopyRate link;  ///< of each prefill replica; copies pass one after another
};

struct ServingOptions {
  ReplicaGroup replicas;
  std::optional<Disaggregation> disaggregation;

  Batching batching = Batching::continuous;
  /// whole_batch: how long the first of a batch waits for others; it begins earlier when it is full.
  Time batch_wait = nanoseconds_per_second;
  bool chunked_prefill = true;      ///< else a prompt is computed in one step, and refused if above the token budget
  bool prefix_cache = true;         ///< full blocks are found again by equal prefixes
  bool reserve_full_prompt = true;  ///< a request is admitted only when its whole prompt has room, not just its chunk
  Preemption preemption = Preemption::recompute;
  double kv_bytes_per_token = 0;  ///< of a replica; for tiers, swaps and transfers
  /// Of each replica; decode replicas only swap. Swaps need them; prefixes are kept there if there is a prefix cache.
  std::optional<KvTiers> tiers;

  Routing routing = Routing::round_robin;
  int routing_imbalance = 32;  ///< prefix_aware: unfinished requests by which the chosen replica may exceed the least

  Time limit = end_of_time;                     ///< nothing happens later; who is not done is `unfinished`
  Time sample_period = nanoseconds_per_second;  ///< of the series; doubled as often as it gets longer than most_samples
  std::size_t most_samples = 65536;
  std::size_t most_requests = 100'000'000;
  bool step_by_step = false;  ///< the reference: equal results, slower
  bool check_every_change =
      false;  ///< blocks are counted after every change, slow; else only in debug builds, and not after every one
  ServingObserver* observer = nullptr;  ///< not owned
};

enum class RequestStatus : std::uint8_t {
  unfinished,  ///< waits or runs
  completed,
  too_long,  ///< could never be served: its KV cache or, without chunks, its prompt exceeds a replica
};
const char* to_string(RequestStatus status) noexcept;

inline constexpr Time not_yet = -1;

struct RequestRecord {
  std::size_t index = 0;  ///< in ServingResult::requests: order in which the source gave them
  Time arrival = not_yet;
  Time queued = not_yet;       ///< arrival and the cost per request
  Time scheduled = not_yet;    ///< begin of its first step
  Time first_token = not_yet;  ///< end of its prompt's last step
  Time finish = not_yet;       ///< last token; too_long: when it was refused
  std::int64_t prompt_tokens = 0, output_tokens = 0;
  std::int64_t generated_tokens = 0;  ///< output_tokens when completed
  std::int64_t cached_tokens = 0;     ///< of the prompt, found in the prefix cache when first scheduled
  std::int64_t loaded_tokens = 0;     ///< of them, those that were loaded from tiers
  std::int64_t computed_tokens = 0;   ///< in all steps: prompt, output and what was computed again
  int preemptions = 0;
  int replica = -1;         ///< that computed, or is to compute, the prompt
  int decode_replica = -1;  ///< disaggregation: number within its group
  std::uint32_t session = 0;
  RequestStatus status = RequestStatus::unfinished;

  /// Mean time between output tokens; none unless it is completed and has two or more.
  [[nodiscard]] std::optional<double> seconds_per_output_token() const {
    if (status != RequestStatus::completed || output_tokens < 2) return std::nullopt;
    return to_seconds(finish - first_token) / static_cast<double>(output_tokens - 1);
  }
};

/// Integral of a count over time, exact: `seconds + nanoseconds / 1e9` request-seconds, the latter below 1e9.
struct CountTime {
  std::int64_t seconds = 0, nanoseconds = 0;
  void add(std::int64_t count, Time duration);
  [[nodiscard]] double value() const { return static_cast<double>(seconds) + static_cast<double>(nanoseconds) * 1e-9; }
  bool operator==(const CountTime&) const = default;
};

/// The state over all replicas after all that happened up to `time`.
struct ServingSample {
  Time time = 0;
  std::int64_t used_blocks = 0;                             ///< held by requests; blocks that are only cached are free
  std::int64_t running = 0;                                 ///< in batches
  std::int64_t waiting = 0;                                 ///< queued or in transfer
  std::array<std::int64_t, most_kv_tiers> tier_bytes = {};  ///< in tiers
  bool operator==(const ServingSample&) const = default;
};

struct ReplicaTotals {
  std::int64_t blocks = 0;            ///< of KV memory
  std::int64_t peak_used_blocks = 0;  ///< held at once
  std::int64_t steps = 0;
  std::int64_t step_sequences = 0;   ///< sequences summed over steps
  std::int64_t computed_tokens = 0;  ///< summed over steps
  std::int64_t preemptions = 0;
  /// Of prompts looked up in, and found in, the prefix cache; not when they are computed again.
  std::int64_t queried_tokens = 0, cached_tokens = 0;
  std::int64_t evicted_blocks = 0;  ///< cached blocks handed out anew
  std::int64_t swapped_bytes = 0;   ///< to the first tier and back
  std::vector<KvTierTotals> tiers;  ///< those of ServingOptions::tiers
  std::int64_t recalled_bytes = 0;  ///< by decode steps, from tiers: ResidentCache::traffic()
  std::int64_t demoted_bytes = 0;   ///< likewise, to tiers
  Time busy = 0;                    ///< with at least one microbatch on its way
  bool operator==(const ReplicaTotals&) const = default;
};

struct ServingResult {
  std::vector<RequestRecord> requests;
  std::vector<ReplicaTotals> replicas;  ///< prefill, then decode replicas
  std::vector<ServingSample> series;
  Time sample_period = 0;        ///< of the series
  Time end = 0;                  ///< of the last event, or the limit if work was left
  CountTime running, waiting;    ///< requests in batches; queued or in transfer. In all: residence in system
  double transferred_bytes = 0;  ///< between prefill and decode replicas
  std::int64_t completed = 0, refused = 0;
  std::int64_t changes = 0;  ///< steps and events that were simulated one by one: the cost
};

/// Where requests come from. Called in the order of simulated time.
class RequestSource {
 public:
  RequestSource() = default;
  RequestSource(const RequestSource&) = delete;
  RequestSource& operator=(const RequestSource&) = delete;
  virtual ~RequestSource() = default;

  /// The next request that arrives regardless of the others, by arrival; none: no more of them.
  virtual std::optional<traces::WorkloadRequest> next() = 0;
  /// `record` is complete: completed, or too_long. What this brings about (the next turn of its session, the next
  /// request of a closed loop), if anything; an arrival before record.finish counts as then.
  virtual std::optional<traces::WorkloadRequest> finished(const RequestRecord& record) = 0;
  /// What the request that was given last keeps and reads; null: as its ReplicaGroup says, which must count in the same
  /// units. Not owned.
  [[nodiscard]] virtual const ResidentCache* resident() const { return nullptr; }
};

/// Runs to the end. Throws Error(invalid_argument) for options out of range, unsorted or impossible arrivals, prompts
/// or outputs of no tokens, more than most_requests, and steps of more than an hour; and what the source and the step
/// cost throw.
ServingResult serve(const ServingOptions& options, RequestSource& source);

}  // namespace evictsim::sim

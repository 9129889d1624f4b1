#pragma once
/// \file
/// One replica of the model: its queue, its batches and its memory. The simulation calls it at one instant in three
/// phases: all batches that end there complete(); then requests and transfers arrive; then start() forms new batches.
/// What arrives at the end of a step is thus seen by the next one, whoever caused it.

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "sim/serving/kv_memory.h"
#include "sim/serving/serving_state.h"
#include "sim/serving/step_progression.h"

namespace evictsim::sim {

enum class ReplicaRole : std::uint8_t { whole, prefill, decode };

class Replica {
 public:
  /// `number` counts all replicas of the simulation, `in_group` those of the group.
  Replica(ServingState& state, const ReplicaGroup& group, ReplicaRole role, int number, int in_group);

  [[nodiscard]] int number() const { return number_; }
  [[nodiscard]] int in_group() const { return in_group_; }
  /// Requests that it is responsible for.
  [[nodiscard]] std::int64_t load() const { return load_; }
  void add_load(std::int64_t requests) { load_ += requests; }

  /// Ends the steps of a microbatch. Appends to `left` who leaves: completed requests, and on a prefill replica all
  /// whose prompt is done, which keep their blocks until release().
  void complete(std::size_t microbatch, Time now, std::vector<SequenceId>& left);
  void release(SequenceId id);

  /// The batch may change at the end of the step that runs now.
  void interrupt(Time now);
  /// A request joins the end of the queue.
  void enqueue(SequenceId id, Time now);
  /// A decode replica between steps makes room for a request whose cache is to come, unless requests that it preempted
  /// wait.
  bool reserve(SequenceId id, Time now);
  /// That cache has come.
  void receive(SequenceId id, Time now);

  /// No step is on its way, or at least one microbatch could begin.
  [[nodiscard]] bool between_steps() const { return busy_ < static_cast<int>(microbatches_.size()); }
  /// Forms batches for microbatches that have none.
  void start(Time now);

  /// Blocks for the steps begun before `now` are taken, so that the memory is that of the step-by-step simulation.
  void catch_up(Time now);
  /// Tokens of the sequence in the prefix cache; catch_up() first.
  [[nodiscard]] std::int64_t cached_tokens(const Sequence& sequence) { return memory_.cached_tokens(sequence); }
  [[nodiscard]] bool can_hold(std::int64_t prompt, std::int64_t output) const {
    return memory_.can_hold(prompt, output);
  }
  /// Blocks held when all that happens up to `time`, inclusive, has happened; nothing else happens before.
  [[nodiscard]] std::int64_t used_blocks(Time time) const;
  /// The simulation ends: counts the steps done by `limit`.
  void cut(Time limit);
  [[nodiscard]] ReplicaTotals totals() const;
  /// Throws std::logic_error when blocks are not conserved. Looks at them now, or else, in debug builds, as often as
  /// the simulation does not become slower by orders of magnitude.
  void check(bool now);

 private:
  struct Item {
    SequenceId sequence = 0;
    std::int64_t tokens = 0;  ///< per step
  };
  struct Microbatch {
    std::vector<Item> items;
    StepProgression progression;
    std::int64_t steps = 0;
    models::StepWork work;  ///< of the first step
    EventId end;
    bool busy = false;
    ExactTime ended;             ///< of its last batch
    std::int64_t sequences = 0;  ///< assigned
  };
  /// A request that found no room, and what there was.
  struct Refusal {
    std::optional<SequenceId> sequence;
    std::int64_t free_blocks = 0, publications = 0, budget = 0;
  };
  /// What a batch under construction has come to.
  struct Draft {
    std::int64_t budget = 0;
    std::int64_t units = 0, units_per_token = 0;
    models::Femtoseconds extra = 0;
    double bytes_to_host = 0, bytes_from_host = 0;
    bool preempted = false;
    models::StepWork work;
  };

  void form(std::size_t index, Time now);
  void schedule_running(std::size_t index, Draft& draft, Time now);
  void schedule_waiting(std::size_t index, Draft& draft, Time now);
  bool admit_next(std::size_t index, Draft& draft, Time now);
  void join(SequenceId id, std::size_t index, Time now, std::int64_t cached);
  void add(std::size_t index, Draft& draft, SequenceId id, std::int64_t tokens);
  void preempt_last(Draft& draft, Time now);
  void launch(std::size_t index, const Draft& draft, Time now);
  [[nodiscard]] ExactTime pass_stages(ExactTime start, models::Femtoseconds duration);
  [[nodiscard]] std::int64_t unchanged_steps(const Microbatch& batch) const;
  [[nodiscard]] bool room_for(const Microbatch& batch, std::int64_t steps) const;
  [[nodiscard]] bool batch_is_due(Time now);
  void advance(std::size_t microbatch, std::int64_t steps);
  /// Still, that is: it was not preempted while its step was on its way.
  [[nodiscard]] bool takes_part(const Item& item, std::size_t microbatch) const;
  [[nodiscard]] bool whole_batches() const { return state_.options.batching == Batching::whole_batch; }

  ServingState& state_;
  const ReplicaGroup& group_;
  ReplicaRole role_;
  int number_, in_group_;
  KvMemory memory_;
  models::Femtoseconds per_unit_;  ///< time of reading 1/units_per_entry of an entry
  std::int64_t units_per_entry_;

  std::deque<SequenceId> waiting_;
  std::deque<SequenceId> ready_;      ///< their cache has come from elsewhere
  std::int64_t coming_ = 0;           ///< caches on their way
  std::vector<SequenceId> running_;   ///< by admission
  std::vector<SequenceId> finished_;  ///< of a whole batch: they hold their memory until its end
  std::vector<Microbatch> microbatches_;
  std::vector<ExactTime> stage_free_;
  int busy_ = 0;
  Time busy_since_ = 0;
  std::int64_t load_ = 0;
  bool admitting_ = true;  ///< a whole batch is being collected
  EventId batch_wait_;
  Refusal refusal_;
  std::int64_t unchecked_changes_ = 0;
  double host_bytes_ = 0;
  ReplicaTotals totals_;
};

}  // namespace evictsim::sim

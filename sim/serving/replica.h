#pragma once
/// \file
/// One replica of the model: its queue, its batches and its memory. The simulation calls it at one instant in three
/// phases: all batches that end there complete(); then requests and transfers arrive; then start() forms new batches.
/// What arrives at the end of a step is thus seen by the next one, whoever caused it.

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
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
  void release(SequenceId id, Time now);

  /// The batch may change at the end of the step that runs now.
  void interrupt(Time now);
  /// A request joins the end of the queue.
  void enqueue(SequenceId id, Time now);
  /// A decode replica between steps makes room for a request whose cache is to come, unless requests that it preempted
  /// wait.
  bool reserve(SequenceId id, Time now);
  /// That cache has come.
  void receive(SequenceId id, Time now);
  /// Something has come over a link of its tiers, or may have. Nobody is in a batch that was not before.
  void copies_arrive(Time now);

  /// No step is on its way, or at least one microbatch could begin.
  [[nodiscard]] bool between_steps() const { return busy_ < static_cast<int>(microbatches_.size()); }
  /// Forms batches for microbatches that have none.
  void start(Time now);

  /// Blocks for the steps begun before `now` are taken, so that the memory is that of the step-by-step simulation.
  void catch_up(Time now);
  /// Tokens of the sequence in the prefix cache and in tiers; catch_up() first.
  [[nodiscard]] std::int64_t cached_tokens(const Sequence& sequence, Time now);
  /// Whether the prompt of a request and then all but the last of `output` tokens fit, alone.
  [[nodiscard]] bool can_hold(const Sequence& sequence, std::int64_t output) const {
    return memory_.can_hold(sequence, output) && (!tiers_ || bytes_below(sequence) <= tiers_->capacity_bytes(0));
  }
  /// Blocks held when all that happens up to `time`, inclusive, has happened; nothing else happens before.
  [[nodiscard]] std::int64_t used_blocks(Time time) const;
  /// Bytes in tiers then; catches up.
  void add_tier_bytes(Time time, std::array<std::int64_t, most_kv_tiers>& bytes);
  /// The simulation ends: counts the steps done by `limit`.
  void cut(Time limit);
  /// After cut(), or when nobody is left; `end` of the simulation.
  [[nodiscard]] ReplicaTotals totals(Time end);
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
    std::int64_t taken = 0;      ///< steps whose room is taken; for tiers
    std::int64_t awaited = 0;    ///< copies without which the step does not begin, or ends later
    bool overlapped = false;     ///< they are loads of the step itself
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
    bool preempted = false;
    bool once = false;  ///< the next step may differ
    models::StepWork work;
  };

  void form(std::size_t index, Time now);
  void schedule_running(std::size_t index, Draft& draft, Time now);
  void schedule_waiting(std::size_t index, Draft& draft, Time now);
  bool admit_next(std::size_t index, Draft& draft, Time now);
  void join(SequenceId id, std::size_t index, Time now, std::int64_t cached);
  void add(std::size_t index, Draft& draft, SequenceId id, std::int64_t tokens, Time now);
  void preempt_last(std::size_t index, Draft& draft, Time now);
  void give_way(SequenceId id, std::size_t index, Draft& draft, Time now);
  [[nodiscard]] std::optional<std::int64_t> chunk_of(std::int64_t missing, std::size_t index, const Draft& draft) const;
  bool load_next(SequenceId id, std::size_t index, Draft& draft, std::int64_t cached, bool counts, Time now);
  bool swap_in_next(SequenceId id, Time now);
  [[nodiscard]] Time prefill_time(std::int64_t from, std::int64_t until) const;
  std::uint64_t begin_copy(CopyEvent::Kind kind, SequenceId id, int microbatch, std::int64_t bytes, Time now);
  void end_copy(std::uint64_t copy, Time now);
  void move(SequenceId id, std::size_t index, Draft& draft, Time now);
  void leave_tiers(Sequence& sequence, Time now);
  [[nodiscard]] std::int64_t bytes_below(const Sequence& sequence) const;
  bool take_below(Sequence& sequence, Time now);
  void go_below(Sequence& sequence);
  void give_back_below(Sequence& sequence, Time now);
  void end_of_waiting(std::size_t index, Time now);
  void take_steps(Microbatch& batch, std::int64_t steps);
  void follow_copies(Time now);
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
  std::unique_ptr<ReplicaTiers> tiers_;  ///< may be none
  KvMemory memory_;
  models::Femtoseconds per_unit_;  ///< time of reading 1/units_per_entry of an entry
  std::int64_t units_per_entry_;

  std::deque<SequenceId> waiting_;
  std::deque<SequenceId> ready_;      ///< their cache has come from elsewhere
  std::int64_t coming_ = 0;           ///< caches on their way from other replicas
  std::int64_t loading_ = 0;          ///< and from tiers
  std::int64_t leaving_ = 0;          ///< requests on their way to the first tier
  bool stalled_ = false;              ///< the only running request waits for room
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
  /// On their way over links of tiers, by tag.
  struct Copy {
    CopyEvent event;
    SequenceId sequence = 0;
    int microbatch = no_microbatch;  ///< whose step waits
  };
  std::vector<Copy> copies_;
  std::vector<std::uint32_t> unused_copies_;
  FollowedEvent copies_event_;
  ReplicaTotals totals_;
};

}  // namespace evictsim::sim

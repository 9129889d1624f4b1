#include "sim/serving/replica.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "traces/error.h"

namespace evictsim::sim {
namespace {

std::unique_ptr<ReplicaTiers> tiers_of(const ServingOptions& options, const ReplicaGroup& group, bool for_swaps) {
  if (!options.tiers) return nullptr;
  const std::int64_t block_bytes = std::llround(options.kv_bytes_per_token * group.block_tokens);
  return std::make_unique<ReplicaTiers>(*options.tiers, block_bytes, group.block_tokens, for_swaps);
}

models::Femtoseconds unit_cost(models::Femtoseconds entry, std::int64_t units) { return (entry + units / 2) / units; }

}  // namespace

Replica::Replica(ServingState& state, const ReplicaGroup& group, ReplicaRole role, int number, int in_group)
    : state_(state),
      group_(group),
      role_(role),
      number_(number),
      in_group_(in_group),
      tiers_(tiers_of(state.options, group, role == ReplicaRole::decode || !state.options.prefix_cache)),
      memory_(group, state.options.prefix_cache, tiers_.get()),
      per_unit_(unit_cost(group.step_cost->per_decode_entry(), group.resident ? group.resident->units_per_entry() : 1)),
      units_per_entry_(group.resident ? group.resident->units_per_entry() : 1),
      microbatches_(static_cast<std::size_t>(group.pipeline_stages)),
      stage_free_(static_cast<std::size_t>(group.pipeline_stages)) {}

void Replica::start(Time now) {
  if (tiers_) tiers_->at(now);
  if (whole_batches()) {
    if (!running_.empty()) {
      admitting_ = false;
    } else {
      for (const SequenceId id : finished_) {
        memory_.release(state_.sequences[id], false);
        state_.sequences.destroy(id);
      }
      finished_.clear();
      admitting_ = batch_is_due(now);
    }
  }
  for (std::size_t i = 0; i < microbatches_.size(); ++i) {
    if (!microbatches_[i].busy) form(i, now);
  }
  if (tiers_) follow_copies(now);
}

bool Replica::batch_is_due(Time now) {
  if (waiting_.empty()) return false;
  if (static_cast<std::int64_t>(waiting_.size()) >= group_.max_sequences) return true;
  std::int64_t blocks = 0;
  for (const SequenceId id : waiting_) {
    const Sequence& sequence = state_.sequences[id];
    const std::int64_t fullest = memory_.fullest_context(sequence, sequence.prompt + sequence.output - 1);
    blocks += memory_.blocks_at(sequence, fullest);
  }
  if (blocks > memory_.blocks()) return true;
  const Time oldest = state_.record(waiting_.front()).queued;
  if (now - oldest >= state_.options.batch_wait) return true;
  if (!state_.events.pending(batch_wait_)) {
    batch_wait_ = state_.events.schedule(oldest + state_.options.batch_wait,
                                         {ServingEvent::Kind::batch_wait, static_cast<std::uint32_t>(number_), 0});
  }
  return false;
}

void Replica::form(std::size_t index, Time now) {
  Microbatch& batch = microbatches_[index];
  batch.items.clear();
  Draft draft;
  draft.budget = whole_batches() ? std::numeric_limits<std::int64_t>::max() : group_.token_budget;
  if (stalled_ && state_.sequences[running_.front()].microbatch == static_cast<int>(index)) stalled_ = false;
  schedule_running(index, draft, now);
  // Nobody is admitted in a step that preempted; where all gave way to caches that have come, there is no such step.
  if (!stalled_ && (!draft.preempted || running_.empty())) schedule_waiting(index, draft, now);
  if (!batch.items.empty()) launch(index, draft, now);
}

void Replica::schedule_running(std::size_t index, Draft& draft, Time now) {
  for (std::size_t place = 0; place < running_.size() && draft.budget > 0; ++place) {
    const SequenceId id = running_[place];
    Sequence& sequence = state_.sequences[id];
    if (sequence.microbatch != static_cast<int>(index)) continue;
    const std::int64_t tokens = std::min(sequence.target - sequence.computed, draft.budget);
    // What is computed again holds its whole prompt before it is cut again.
    const std::int64_t context =
        sequence.decodes() ? sequence.computed + tokens : memory_.fullest_context(sequence, sequence.computed + tokens);
    bool room = memory_.grow(sequence, context);
    while (!room) {
      const std::size_t victim = running_.size() - 1;
      if (victim == 0 && tiers_ && (!ready_.empty() || loading_ + coming_ > 0)) {
        // The oldest of all keeps what it has, so that somebody always gets on: those behind it whose caches have come
        // give way, or it waits for those that come.
        if (ready_.empty()) {
          stalled_ = true;
          return;
        }
        const SequenceId last = ready_.back();
        ready_.pop_back();
        give_way(last, index, draft, now);
      } else {
        // The last of all gives way, also out of a microbatch on its way, whose result for it is then void.
        preempt_last(index, draft, now);
        if (victim == place) return;
      }
      room = memory_.grow(sequence, context);
    }
    add(index, draft, id, tokens, now);
  }
}

void Replica::schedule_waiting(std::size_t index, Draft& draft, Time now) {
  if (whole_batches() && !admitting_) return;
  while (draft.budget > 0 && !(waiting_.empty() && ready_.empty()) &&
         static_cast<std::int64_t>(running_.size()) < group_.max_sequences) {
    const auto stages = static_cast<std::int64_t>(microbatches_.size());
    const auto sequences = static_cast<std::int64_t>(running_.size() + waiting_.size() + ready_.size());
    if (microbatches_[index].sequences >= (sequences + stages - 1) / stages) return;
    if (!admit_next(index, draft, now)) return;
  }
}

/// Those whose cache is there go first: they hold memory.
bool Replica::admit_next(std::size_t index, Draft& draft, Time now) {
  if (!ready_.empty()) {
    const SequenceId id = ready_.front();
    Sequence& sequence = state_.sequences[id];
    const auto tokens = chunk_of(sequence.target - sequence.computed, index, draft);
    if (!tokens) return false;
    ready_.pop_front();
    // It has the room; this is for who looks for the blocks that are filled now.
    if (!sequence.decodes()) memory_.grow(sequence, memory_.fullest_context(sequence, sequence.computed + *tokens));
    join(id, index, now, sequence.computed);
    add(index, draft, id, *tokens, now);
    return true;
  }
  if (static_cast<std::int64_t>(running_.size()) + loading_ >= group_.max_sequences) return false;
  const SequenceId id = waiting_.front();
  Sequence& sequence = state_.sequences[id];
  const ServingOptions& options = state_.options;
  if (sequence.swapped) return swap_in_next(id, now);
  if (refusal_.sequence == id && memory_.free_blocks() <= refusal_.free_blocks &&
      memory_.publications() == refusal_.publications && draft.budget >= refusal_.budget) {
    return false;
  }
  const std::int64_t cached = memory_.cached_tokens(sequence);
  const auto tokens = chunk_of(sequence.target - cached, index, draft);
  if (!tokens) return false;
  std::int64_t reserved = cached + *tokens;
  if (whole_batches()) {
    reserved = sequence.prompt + sequence.output - 1;
  } else if (options.reserve_full_prompt) {
    reserved = sequence.target;
  }
  reserved = memory_.fullest_context(sequence, reserved);
  const std::int64_t room = whole_batches() ? reserved : memory_.fullest_context(sequence, cached + *tokens);
  if (!memory_.fits(sequence, cached, room, reserved)) {
    refusal_ = {id, memory_.free_blocks(), memory_.publications(), draft.budget};
    return false;
  }
  if (!take_below(sequence, now)) return false;
  const bool first_lookup = state_.requests[sequence.request].scheduled == not_yet && !sequence.looked_up;
  if (memory_.prefix_cache() && first_lookup) {
    totals_.queried_tokens += sequence.target;
    totals_.cached_tokens += cached;
    sequence.looked_up = true;
  }
  if (tiers_ && load_next(id, index, draft, cached, first_lookup, now)) return true;
  memory_.admit(sequence, cached, room, reserved);
  sequence.computed = cached;
  waiting_.pop_front();
  join(id, index, now, cached);
  add(index, draft, id, *tokens, now);
  return true;
}

/// Tokens of a step for a request that joins its batch; none if it has to wait for another one.
std::optional<std::int64_t> Replica::chunk_of(std::int64_t missing, std::size_t index, const Draft& draft) const {
  if (missing <= draft.budget) return missing;
  if (state_.options.chunked_prefill) return draft.budget;
  // What is computed again may have outgrown the budget; it gets a step of its own.
  if (!microbatches_[index].items.empty()) return std::nullopt;
  return missing;
}

void Replica::join(SequenceId id, std::size_t index, Time now, std::int64_t cached) {
  Sequence& sequence = state_.sequences[id];
  if (refusal_.sequence == id) refusal_ = {};
  sequence.microbatch = static_cast<int>(index);
  ++microbatches_[index].sequences;
  running_.push_back(id);
  ++state_.running;
  RequestRecord& record = state_.requests[sequence.request];
  if (record.scheduled == not_yet) {
    record.scheduled = now;
    record.cached_tokens = cached;
    record.loaded_tokens = sequence.loaded;
  }
  if (state_.options.observer) state_.options.observer->admitted(now, sequence.request, number_, cached);
}

void Replica::add(std::size_t index, Draft& draft, SequenceId id, std::int64_t tokens, Time now) {
  Sequence& sequence = state_.sequences[id];
  microbatches_[index].items.push_back({id, tokens});
  draft.budget -= std::min(tokens, draft.budget);
  if (!sequence.decodes()) {
    ++draft.work.prefill_sequences;
    draft.work.prefill_tokens += tokens;
    const std::int64_t cached = sequence.computed;
    const ResidentCache* const resident = memory_.cache_of(sequence);
    const ChunkReads reads = resident != nullptr ? resident->chunk(cached, tokens) : causal_chunk(cached, tokens);
    draft.work.prefill_context += reads.context;
    draft.work.prefill_pairs += reads.pairs;
    return;
  }
  ++draft.work.decode_sequences;
  if (sequence.below > 0 && !sequence.went_below) go_below(sequence);
  if (!group_.resident) {
    draft.units += sequence.target;
    ++draft.units_per_token;
    return;
  }
  // A span is left by growing out of it, or by being computed again from its beginning.
  if (sequence.target > sequence.until || sequence.target < sequence.since) {
    const ReadSpan span = memory_.cache_of(sequence)->reads(sequence.prompt, sequence.target);
    sequence.units = span.units;
    sequence.units_per_token = span.units_per_token;
    sequence.extra = span.extra;
    sequence.since = sequence.target;
    sequence.until = std::max(span.until, sequence.target);
  }
  draft.units += sequence.units + sequence.units_per_token * (sequence.target - sequence.since);
  draft.units_per_token += sequence.units_per_token;
  draft.extra += sequence.extra;
  if (memory_.cache_of(sequence)->moves()) move(id, index, draft, now);
  // Who found all of a cut cache among cached blocks lets go of the rest with the next step.
  if (static_cast<std::int64_t>(sequence.blocks.size()) > memory_.blocks_at(sequence, sequence.target)) {
    draft.once = true;
  }
}

void Replica::preempt_last(std::size_t index, Draft& draft, Time now) {
  const SequenceId id = running_.back();
  Sequence& sequence = state_.sequences[id];
  running_.pop_back();
  --microbatches_[static_cast<std::size_t>(sequence.microbatch)].sequences;
  sequence.microbatch = no_microbatch;
  --state_.running;
  give_way(id, index, draft, now);
}

void Replica::launch(std::size_t index, const Draft& draft, Time now) {
  Microbatch& batch = microbatches_[index];
  batch.work = draft.work;
  models::Femtoseconds fixed = std::max(group_.step_cost->of(batch.work), femtoseconds_per_nanosecond);
  fixed += draft.extra;
  const double expected =
      static_cast<double>(fixed) + static_cast<double>(per_unit_) * static_cast<double>(draft.units);
  if (!(expected < static_cast<double>(longest_step))) {
    throw Error(ErrorCode::invalid_argument, "a step takes more than an hour: expected fewer tokens or faster hardware",
                {.parameter = "seconds of a step", .value = std::to_string(expected * 1e-15)});
  }
  batch.work.decode_entries = draft.units / units_per_entry_;
  batch.progression.first = fixed + per_unit_ * draft.units;
  batch.progression.growth = per_unit_ * draft.units_per_token;
  batch.progression.start = batch.ended.time == now ? batch.ended : ExactTime{now, 0};
  batch.steps = batch.taken = 1;
  batch.busy = true;
  if (busy_++ == 0) busy_since_ = now;
  if (batch.awaited > 0) return;
  Time end = 0;
  if (microbatches_.size() > 1) {
    const ExactTime left = pass_stages(batch.progression.start, batch.progression.first);
    end = left.time;
    batch.ended = left;
  } else {
    const bool once = state_.options.step_by_step || draft.preempted || draft.once;
    if (!once && draft.work.prefill_sequences == 0) batch.steps = unchanged_steps(batch);
    end = batch.progression.end(batch.steps).time;
  }
  batch.end = state_.events.schedule(
      end, {ServingEvent::Kind::steps_end, static_cast<std::uint32_t>(number_), static_cast<std::uint32_t>(index)});
}

/// Stages take equal shares of a step, and each serves one microbatch after another.
ExactTime Replica::pass_stages(ExactTime start, models::Femtoseconds duration) {
  const auto stages = static_cast<models::Femtoseconds>(stage_free_.size());
  models::Femtoseconds share = duration / stages + duration % stages;
  for (ExactTime& free : stage_free_) {
    start = std::max(start, free) + share;
    free = start;
    share = duration / stages;
  }
  return start;
}

/// How many steps from now on differ in nothing but the lengths of their contexts: until somebody finishes, reads
/// change their slope, or memory runs out. As memory only gets scarcer meanwhile, who waits for it goes on waiting,
/// unless blocks that it looks for are filled.
std::int64_t Replica::unchanged_steps(const Microbatch& batch) const {
  std::int64_t steps = std::numeric_limits<std::int64_t>::max();
  for (const Item& item : batch.items) {
    const Sequence& sequence = state_.sequences[item.sequence];
    steps = std::min(steps, sequence.output - sequence.generated);
    if (group_.resident) {
      // Nor are blocks published while it decodes.
      steps = std::min(steps, sequence.until - sequence.target + 1);
      continue;
    }
    if (!waiting_.empty() && memory_.prefix_cache() && sequence.published < sequence.hashes.size()) {
      steps = std::min(steps, memory_.block_tokens() - sequence.target % memory_.block_tokens());
    }
  }
  steps = batch.progression.representable(steps);
  if (room_for(batch, steps)) return steps;
  std::int64_t enough = 1;
  while (steps - enough > 1) {
    const std::int64_t middle = enough + (steps - enough) / 2;
    (room_for(batch, middle) ? enough : steps) = middle;
  }
  return enough;
}

bool Replica::room_for(const Microbatch& batch, std::int64_t steps) const {
  std::int64_t wanted = 0;
  for (const Item& item : batch.items) {
    const Sequence& sequence = state_.sequences[item.sequence];
    const std::int64_t blocks = memory_.blocks_at(sequence, sequence.computed + steps);
    wanted += std::max<std::int64_t>(0, blocks - static_cast<std::int64_t>(sequence.blocks.size()));
  }
  return wanted <= memory_.free_blocks();
}

}  // namespace evictsim::sim

// What happens to a replica between the moments at which it forms batches.
#include <algorithm>

#include "sim/serving/replica.h"

namespace evictsim::sim {

void Replica::complete(std::size_t microbatch, Time now, std::vector<SequenceId>& left) {
  Microbatch& batch = microbatches_[microbatch];
  if (microbatches_.size() == 1) batch.ended = batch.progression.end(batch.steps);
  const std::int64_t steps = batch.steps;
  if (state_.options.observer) {
    state_.options.observer->steps(
        {number_, static_cast<int>(microbatch), batch.progression.start.time, now, steps, batch.work});
  }
  if (steps > 1) take_steps(batch, steps);
  advance(microbatch, steps);
  batch.busy = false;
  if (--busy_ == 0) totals_.busy += now - busy_since_;
  bool any_left = false;
  for (const Item& item : batch.items) {
    Sequence& sequence = state_.sequences[item.sequence];
    if (!takes_part(item, microbatch) || sequence.computed < sequence.target) continue;
    RequestRecord& record = state_.requests[sequence.request];
    sequence.generated += steps;
    sequence.target = sequence.computed + 1;
    record.generated_tokens = sequence.generated;
    if (record.first_token == not_yet) record.first_token = now;
    const bool done = sequence.generated == sequence.output;
    if (!done && role_ != ReplicaRole::prefill) continue;
    any_left = true;
    --batch.sequences;
    --state_.running;
    sequence.microbatch = no_microbatch;
    if (done) {
      record.finish = now;
      record.status = RequestStatus::completed;
    }
    left.push_back(item.sequence);
  }
  if (!any_left) return;
  std::erase_if(running_, [&](SequenceId id) { return state_.sequences[id].microbatch == no_microbatch; });
}

/// Counts computed tokens; a prompt's last chunk yields a token, which complete() adds.
void Replica::advance(std::size_t microbatch, std::int64_t steps) {
  const Microbatch& batch = microbatches_[microbatch];
  totals_.steps += steps;
  totals_.step_sequences += steps * static_cast<std::int64_t>(batch.items.size());
  totals_.computed_tokens += steps * (batch.work.decode_sequences + batch.work.prefill_tokens);
  for (const Item& item : batch.items) {
    if (!takes_part(item, microbatch)) continue;
    Sequence& sequence = state_.sequences[item.sequence];
    sequence.computed += item.tokens * steps;
    state_.requests[sequence.request].computed_tokens += item.tokens * steps;
  }
}

void Replica::release(SequenceId id, Time now) {
  --load_;
  leave_tiers(state_.sequences[id], now);
  give_back_below(state_.sequences[id], now);
  if (whole_batches()) {
    finished_.push_back(id);
    return;
  }
  memory_.release(state_.sequences[id], false);
  state_.sequences.destroy(id);
}

void Replica::enqueue(SequenceId id, Time now) {
  const bool first = waiting_.empty();
  waiting_.push_back(id);
  // Who comes behind others that cannot be admitted changes nothing, nor does anybody while the batch is full.
  if (first && !whole_batches() && static_cast<std::int64_t>(running_.size()) < group_.max_sequences) interrupt(now);
}

bool Replica::reserve(SequenceId id, Time now) {
  const auto places = static_cast<std::int64_t>(running_.size() + ready_.size()) + coming_ + loading_;
  if (!waiting_.empty() || stalled_ || places >= group_.max_sequences) return false;
  Sequence& sequence = state_.sequences[id];
  if (!take_below(sequence, now) || !memory_.admit(sequence, 0, sequence.target, sequence.target)) return false;
  ++coming_;
  interrupt(now);
  return true;
}

void Replica::receive(SequenceId id, Time now) {
  --coming_;
  ready_.push_back(id);
  interrupt(now);
}

void Replica::catch_up(Time now) {
  for (Microbatch& batch : microbatches_) {
    if (!batch.busy || batch.steps == 1) continue;
    take_steps(batch, batch.progression.done_not_before(now, batch.steps));
  }
}

/// Takes blocks for the first `steps` steps of a batch.
void Replica::take_steps(Microbatch& batch, std::int64_t steps) {
  const auto publishes = [&](const Item& item) {
    const Sequence& sequence = state_.sequences[item.sequence];
    return sequence.published < sequence.hashes.size();
  };
  // Step by step where the order matters: of blocks that several fill with the same tokens the first one is found, and
  // tiers are told what becomes of cached blocks, and when.
  const auto publishers = std::count_if(batch.items.begin(), batch.items.end(), publishes);
  const bool in_order =
      publishers > 1 || (tiers_ && tiers_->keeps_prefixes() && (publishers > 0 || memory_.caches_blocks()));
  for (std::int64_t step = in_order ? batch.taken + 1 : steps; step <= steps; ++step) {
    if (tiers_) tiers_->at(batch.progression.end(step - 1).time);
    for (const Item& item : batch.items) {
      Sequence& sequence = state_.sequences[item.sequence];
      const std::int64_t context = sequence.computed + step;
      if (!in_order || memory_.grows(sequence, context)) memory_.grow(sequence, context);
    }
  }
  batch.taken = std::max(batch.taken, steps);
}

void Replica::interrupt(Time now) {
  for (Microbatch& batch : microbatches_) {
    if (!batch.busy || batch.steps == 1) continue;
    const std::int64_t steps = batch.progression.done_not_before(now, batch.steps);
    if (steps == batch.steps) continue;
    batch.steps = steps;
    state_.events.reschedule(batch.end, batch.progression.end(steps).time);
  }
}

std::int64_t Replica::used_blocks(Time time) const {
  std::int64_t used = memory_.used_blocks();
  for (const Microbatch& batch : microbatches_) {
    if (!batch.busy || batch.steps == 1) continue;
    const std::int64_t begun = batch.progression.done_not_before(time + 1, batch.steps);
    for (const Item& item : batch.items) {
      const Sequence& sequence = state_.sequences[item.sequence];
      const std::int64_t blocks = memory_.blocks_at(sequence, sequence.computed + begun);
      used += std::max<std::int64_t>(0, blocks - static_cast<std::int64_t>(sequence.blocks.size()));
    }
  }
  return used;
}

void Replica::cut(Time limit) {
  catch_up(limit + 1);
  for (std::size_t i = 0; i < microbatches_.size(); ++i) {
    const Microbatch& batch = microbatches_[i];
    if (!batch.busy || batch.steps == 1) continue;
    // The last step of the batch ends after the limit, so these are no more than those that end before.
    const std::int64_t done = batch.progression.done_not_before(limit + 1, batch.steps) - 1;
    if (done == 0) continue;
    advance(i, done);
    for (const Item& item : batch.items) {
      Sequence& sequence = state_.sequences[item.sequence];
      state_.requests[sequence.request].generated_tokens += done;
    }
  }
  if (busy_ > 0) totals_.busy += limit - busy_since_;
}

bool Replica::takes_part(const Item& item, std::size_t microbatch) const {
  return state_.sequences[item.sequence].microbatch == static_cast<int>(microbatch);
}

void Replica::check(bool now) {
#ifdef NDEBUG
  constexpr bool debug = false;
#else
  constexpr bool debug = true;
#endif
  constexpr std::int64_t blocks_per_change = 64;
  if (!now && (!debug || ++unchecked_changes_ < memory_.blocks() / blocks_per_change)) return;
  unchecked_changes_ = 0;
  memory_.check();
  if (tiers_) tiers_->check();
}

ReplicaTotals Replica::totals(Time end) {
  ReplicaTotals totals = totals_;
  if (tiers_) {
    tiers_->at(end);
    totals.tiers = tiers_->totals();
  }
  totals.blocks = memory_.blocks();
  totals.peak_used_blocks = memory_.peak_used_blocks();
  totals.evicted_blocks = memory_.evicted_blocks();
  return totals;
}

}  // namespace evictsim::sim

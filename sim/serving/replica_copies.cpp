// What a replica and its tiers exchange: prefixes that are loaded, requests that are swapped.
#include <algorithm>
#include <cmath>
#include <string>

#include "sim/memory/load_or_recompute.h"
#include "sim/serving/replica.h"
#include "traces/error.h"

namespace evictsim::sim {
namespace {

[[noreturn]] void too_slow(Time waited) {
  throw Error(ErrorCode::invalid_argument, "a step waits for copies for more than an hour: expected faster tiers",
              {.parameter = "seconds", .value = std::to_string(to_seconds(waited))});
}

}  // namespace

std::int64_t Replica::cached_tokens(const Sequence& sequence, Time now) {
  const std::int64_t cached = memory_.cached_tokens(sequence);
  if (!tiers_) return cached;
  tiers_->at(now);
  const auto tokens = static_cast<std::int64_t>(memory_.block_tokens());
  const std::size_t last = std::min(sequence.hashes.size(), static_cast<std::size_t>((sequence.target - 1) / tokens));
  return cached + tokens * static_cast<std::int64_t>(
                               tiers_->found(sequence.hashes, static_cast<std::size_t>(cached / tokens), last));
}

void Replica::add_tier_bytes(Time time, std::array<std::int64_t, most_kv_tiers>& bytes) {
  catch_up(time + 1);
  tiers_->at(time);
  tiers_->settle();
  for (std::size_t tier = 0; tier < tiers_->tiers(); ++tier) bytes[tier] += tiers_->used_bytes(tier);
}

/// How long the replica would compute these tokens of a prompt, alone.
Time Replica::prefill_time(std::int64_t from, std::int64_t until) const {
  models::Femtoseconds sum = 0;
  const std::int64_t budget = state_.options.chunked_prefill ? group_.token_budget : until;
  while (from < until && sum < longest_step) {
    const std::int64_t tokens = std::min(budget, until - from);
    const ChunkReads reads = group_.resident ? group_.resident->chunk(from, tokens) : causal_chunk(from, tokens);
    models::StepWork work;
    work.prefill_sequences = 1;
    work.prefill_tokens = tokens;
    work.prefill_context = reads.context;
    work.prefill_pairs = reads.pairs;
    sum += std::min(group_.step_cost->of(work), longest_step);
    from += tokens;
  }
  return sum / femtoseconds_per_nanosecond;
}

/// The first of the queue, which has room: loads what lies in tiers, if that is to be; false if not.
bool Replica::load_next(SequenceId id, std::size_t index, Draft& draft, std::int64_t cached, bool counts, Time now) {
  Sequence& sequence = state_.sequences[id];
  const auto block_tokens = static_cast<std::int64_t>(memory_.block_tokens());
  const auto first = static_cast<std::size_t>(cached / block_tokens);
  const std::size_t last =
      std::min(sequence.hashes.size(), static_cast<std::size_t>((sequence.target - 1) / block_tokens));
  const std::size_t until = tiers_->choose(sequence.hashes, first, last, [&](std::size_t block) {
    return prefill_time(static_cast<std::int64_t>(block) * block_tokens, sequence.target);
  });
  if (until == first) return false;
  const std::int64_t present = static_cast<std::int64_t>(until) * block_tokens;
  const bool overlapped = tiers_->overlapped_layers() > 1;
  std::int64_t tokens = sequence.target - present;
  if (overlapped && state_.options.chunked_prefill) tokens = std::min(tokens, draft.budget);
  const std::int64_t room = memory_.fullest_context(sequence, present + tokens);
  const std::int64_t reserved =
      state_.options.reserve_full_prompt ? memory_.fullest_context(sequence, sequence.target) : room;
  if (!memory_.fits(sequence, cached, room, reserved)) return false;
  // It begins before room is made by writing down what may push out of a tier what is to be loaded.
  const auto bytes = std::llround(state_.options.kv_bytes_per_token * static_cast<double>(present - cached));
  const std::uint64_t copy =
      begin_copy(CopyEvent::Kind::load, id, overlapped ? static_cast<int>(index) : no_microbatch, bytes, now);
  tiers_->load(sequence.hashes, first, until, copy, counts);
  if (overlapped) {
    memory_.admit(sequence, cached, room, reserved);
  } else {
    memory_.admit_to_load(sequence, cached, room);
  }
  sequence.computed = present;
  sequence.loaded = present - cached;
  waiting_.pop_front();
  if (overlapped) {
    microbatches_[index].overlapped = true;
    join(id, index, now, present);
    add(index, draft, id, tokens, now);
  }
  return true;
}

/// The first of the queue comes back from the first tier, if there is room.
bool Replica::swap_in_next(SequenceId id, Time now) {
  Sequence& sequence = state_.sequences[id];
  if (leaving_ > 0 || !memory_.admit_to_load(sequence, 0, sequence.target)) return false;
  waiting_.pop_front();
  totals_.swapped_bytes += sequence.host_bytes;
  const std::uint64_t copy = begin_copy(CopyEvent::Kind::swap_in, id, no_microbatch, sequence.host_bytes, now);
  tiers_->read(sequence.host_bytes, 0, copy);
  return true;
}

/// A request leaves its memory and goes to the head of the queue.
void Replica::give_way(SequenceId id, std::size_t index, Draft& draft, Time now) {
  Sequence& sequence = state_.sequences[id];
  const std::int64_t held = static_cast<std::int64_t>(sequence.blocks.size()) * memory_.block_tokens();
  const std::int64_t bytes =
      std::llround(state_.options.kv_bytes_per_token * static_cast<double>(std::min(sequence.computed, held)));
  sequence.swapped =
      state_.options.preemption == Preemption::swap && sequence.decodes() && bytes > 0 && tiers_->set_aside(bytes, 0);
  memory_.release(sequence, !sequence.swapped);
  if (!sequence.swapped) {
    leave_tiers(sequence, now);
    sequence.went_below = false;
  }
  if (sequence.swapped) {
    sequence.host_bytes = bytes;
    totals_.swapped_bytes += bytes;
    tiers_->write(bytes, 0, begin_copy(CopyEvent::Kind::swap_out, id, static_cast<int>(index), bytes, now));
  }
  sequence.computed = 0;
  waiting_.push_front(id);
  draft.preempted = true;
  ++totals_.preemptions;
  ++state_.requests[sequence.request].preemptions;
  if (state_.options.observer) {
    state_.options.observer->preempted(now, sequence.request, number_, sequence.swapped);
  }
}

/// `microbatch`: whose step waits for it, if any.
std::uint64_t Replica::begin_copy(CopyEvent::Kind kind, SequenceId id, int microbatch, std::int64_t bytes, Time now) {
  std::uint32_t copy = 0;
  if (unused_copies_.empty()) {
    copy = static_cast<std::uint32_t>(copies_.size());
    copies_.emplace_back();
  } else {
    copy = unused_copies_.back();
    unused_copies_.pop_back();
  }
  copies_[copy] = {{kind, state_.sequences[id].request, number_, now, now, bytes}, id, microbatch};
  if (microbatch != no_microbatch) ++microbatches_[static_cast<std::size_t>(microbatch)].awaited;
  if (kind == CopyEvent::Kind::swap_out) {
    ++leaving_;
  } else if (microbatch == no_microbatch) {
    ++loading_;
  }
  return copy;
}

void Replica::end_copy(std::uint64_t copy, Time now) {
  Copy done = copies_[copy];
  unused_copies_.push_back(static_cast<std::uint32_t>(copy));
  done.event.end = now;
  if (state_.options.observer) state_.options.observer->copied(done.event);
  if (done.event.kind == CopyEvent::Kind::swap_out) --leaving_;
  if (done.microbatch != no_microbatch) {
    const auto index = static_cast<std::size_t>(done.microbatch);
    if (--microbatches_[index].awaited == 0 && microbatches_[index].busy) end_of_waiting(index, now);
    return;
  }
  Sequence& sequence = state_.sequences[done.sequence];
  if (done.event.kind == CopyEvent::Kind::swap_in) {
    tiers_->give_back(sequence.host_bytes, 0);
    sequence.swapped = false;
    sequence.computed = sequence.target - 1;
  }
  --loading_;
  memory_.loaded(sequence, sequence.computed);
  ready_.push_back(done.sequence);
}

/// All copies have come for which a step waited.
void Replica::end_of_waiting(std::size_t index, Time now) {
  Microbatch& batch = microbatches_[index];
  StepProgression& progression = batch.progression;
  const Time since = now - progression.start.time;
  if (since >= longest_step / femtoseconds_per_nanosecond) too_slow(since);
  const models::Femtoseconds waited =
      std::max<models::Femtoseconds>(0, since * femtoseconds_per_nanosecond - progression.start.rest);
  ExactTime end;
  if (microbatches_.size() > 1) {
    batch.ended = end = pass_stages({now, 0}, progression.first);
  } else {
    progression.first = overlapped(waited, progression.first, batch.overlapped ? tiers_->overlapped_layers() : 1);
    end = progression.end(1);
  }
  batch.overlapped = false;
  batch.end = state_.events.schedule(end.time, {ServingEvent::Kind::steps_end, static_cast<std::uint32_t>(number_),
                                                static_cast<std::uint32_t>(index)});
}

/// What a decode step of an evicting cache moves: what it recalls is waited for.
void Replica::move(SequenceId id, std::size_t index, Draft& draft, Time now) {
  Sequence& sequence = state_.sequences[id];
  const TierTraffic traffic = memory_.cache_of(sequence)->traffic(sequence.prompt, sequence.target);
  if (!tiers_) {
    if (traffic == TierTraffic{}) return;
    throw Error(ErrorCode::invalid_argument, "what is kept outside HBM needs a tier", {.parameter = "tiers"});
  }
  for (std::size_t place = 0; place < traffic.held.size(); ++place) {
    // Where there is one tier only, it takes everything.
    const std::size_t tier = std::min(place, tiers_->tiers() - 1);
    const std::int64_t more = traffic.held[place] - sequence.in_tiers[place];
    if (more > 0) {
      if (!tiers_->set_aside(more, tier)) {
        throw Error(ErrorCode::out_of_memory, "has no room for what evicting caches keep there",
                    {.parameter = state_.options.tiers->tiers[tier].name,
                     .value = std::to_string(tiers_->used_bytes(tier)) + " + " + std::to_string(more) + " bytes"});
      }
      tiers_->write(more, tier);
      totals_.demoted_bytes += more;
    } else if (more < 0) {
      tiers_->give_back(-more, tier);
    }
    sequence.in_tiers[place] = traffic.held[place];
    draft.once = draft.once || more != 0;
    if (traffic.recalled[place] == 0) continue;
    draft.once = true;
    totals_.recalled_bytes += traffic.recalled[place];
    tiers_->read(traffic.recalled[place], tier,
                 begin_copy(CopyEvent::Kind::recall, id, static_cast<int>(index), traffic.recalled[place], now));
  }
}

/// A sequence leaves, or is computed again: what it kept in tiers is gone.
void Replica::leave_tiers(Sequence& sequence, Time now) {
  for (std::size_t place = 0; place < sequence.in_tiers.size(); ++place) {
    if (sequence.in_tiers[place] == 0) continue;
    tiers_->at(now);
    tiers_->give_back(sequence.in_tiers[place], std::min(place, tiers_->tiers() - 1));
  }
  sequence.in_tiers = {};
}

/// What an evicting cache keeps in the first tier. A replica that only computes prompts cuts none.
std::int64_t Replica::bytes_below(const Sequence& sequence) const {
  const ResidentCache* const cache = memory_.cache_of(sequence);
  if (cache == nullptr || role_ == ReplicaRole::prefill) return 0;
  return std::llround(state_.options.kv_bytes_per_token * cache->tokens_below(sequence.prompt));
}

/// Takes room for that, if there is any. It is kept when the request gives way, so that nobody who was admitted waits
/// for it again, and all who wait for it come behind those who have it.
bool Replica::take_below(Sequence& sequence, Time now) {
  const std::int64_t bytes = tiers_ && sequence.below == 0 ? bytes_below(sequence) : 0;
  if (bytes == 0) return true;
  tiers_->at(now);
  if (!tiers_->set_aside(bytes, 0)) return false;
  sequence.below = bytes;
  return true;
}

/// The prompt is done and cut. Nobody waits for the copy.
void Replica::go_below(Sequence& sequence) {
  tiers_->write(sequence.below, 0);
  totals_.demoted_bytes += sequence.below;
  sequence.went_below = true;
}

void Replica::give_back_below(Sequence& sequence, Time now) {
  if (sequence.below == 0) return;
  tiers_->at(now);
  tiers_->give_back(sequence.below, 0);
  sequence.below = 0;
}

void Replica::copies_arrive(Time now) {
  catch_up(now);
  tiers_->at(now);
  interrupt(now);
  follow_copies(now);
}

/// Takes what has come, and keeps an event at the time of what comes next, if somebody waits for it.
void Replica::follow_copies(Time now) {
  while (const auto event = tiers_->pop()) end_copy(event->tag, now);
  const bool awaited = copies_.size() > unused_copies_.size();
  const Time next = awaited ? tiers_->next_time() : end_of_time;
  if (awaited && next == end_of_time) too_slow(next);
  follow(state_.events, copies_event_, next,
         ServingEvent{ServingEvent::Kind::copied, static_cast<std::uint32_t>(number_), 0});
}

}  // namespace evictsim::sim

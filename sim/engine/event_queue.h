#pragma once
/// \file
/// The clock of a discrete-event simulation and the queue of its pending events.
///
/// Events come out by time; events of the same time in the order of their schedule() and reschedule() calls, whatever
/// was cancelled in between. That order is part of the result, so equal inputs give equal simulations.
///
/// The queue is a radix heap on the bits of the time (Ahuja, Mehlhorn, Orlin, Tarjan: Faster algorithms for the
/// shortest path problem, JACM 37(2), 1990), laid out as a hierarchy of timing wheels (Varghese, Lauck: Hashed and
/// hierarchical timing wheels, SOSP 1987). It uses that a simulation never schedules before now(): an event waits in
/// the wheel of the highest digit (base 64) in which its time differs from now's, and sinks by at least one wheel
/// whenever the clock reaches its bucket. Every operation is O(1), an event sinks at most ten times, and buckets are
/// lists that keep the order of arrival, so equal times stay in order without any comparison.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <vector>

#include "sim/engine/time.h"

namespace evictsim::sim {

/// Names one scheduled event for cancel() and reschedule(), also after it has happened.
struct EventId {
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;  ///< 0 names no event
  friend bool operator==(const EventId&, const EventId&) = default;
};

namespace detail {
[[noreturn]] void refuse_past(Time time, Time now);
[[noreturn]] void refuse_delay(Time delay, Time now);
}  // namespace detail

/// Pending events that carry a `Payload` each, which has a default. Memory grows with the largest number of events
/// pending at once and is then used again: no allocation per event.
template <typename Payload>
class EventQueue {
  static_assert(std::is_trivially_copyable_v<Payload>, "payloads are moved as bytes: hold indices, not owners");

 public:
  struct Event {
    Time time = 0;
    EventId id;  ///< no longer pending
    Payload payload;
  };

  EventQueue() { buckets_.fill({none, none}); }

  /// Time of the event popped last, or the limit of a later pop_until() that found none.
  [[nodiscard]] Time now() const { return now_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] std::size_t size() const { return size_; }
  /// Room for `events` pending at once.
  void reserve(std::size_t events) { slots_.reserve(events); }

  /// Throws Error(invalid_argument) for a time before now().
  EventId schedule(Time time, const Payload& payload) {
    if (time < now_) detail::refuse_past(time, now_);
    const std::uint32_t index = take_slot();
    Slot& slot = slots_[index];
    slot.time = time;
    slot.payload = payload;
    append(index);
    ++size_;
    return {index, slot.generation};
  }
  /// At now() + delay. Throws Error(invalid_argument) for a negative delay and one that leads past end_of_time.
  EventId schedule_after(Time delay, const Payload& payload) {
    if (delay < 0 || delay > end_of_time - now_) detail::refuse_delay(delay, now_);
    return schedule(now_ + delay, payload);
  }

  [[nodiscard]] bool pending(EventId id) const {
    return id.slot < slots_.size() && slots_[id.slot].generation == id.generation && id.generation % 2 == 1;
  }
  /// False, and nothing changes, when the event has happened or was cancelled.
  bool cancel(EventId id) {
    if (!pending(id)) return false;
    remove(id.slot);
    release(id.slot);
    return true;
  }
  /// Moves a pending event behind all others of its new time, also when that is its old one; `id` stays valid. False
  /// when it is no longer pending. Throws Error(invalid_argument) for a time before now().
  bool reschedule(EventId id, Time time) {
    if (!pending(id)) return false;
    if (time < now_) detail::refuse_past(time, now_);
    remove(id.slot);
    slots_[id.slot].time = time;
    append(id.slot);
    return true;
  }

  /// Time of the next event. Looks at the events that share the earliest bucket: prefer pop_until() in loops.
  [[nodiscard]] std::optional<Time> next_time() const {
    if (empty()) return std::nullopt;
    const unsigned level = lowest_level();
    Time earliest = end_of_time;
    for (std::uint32_t i = buckets_[first_bucket(level)].first; i != none; i = slots_[i].next) {
      if (slots_[i].time < earliest) earliest = slots_[i].time;
      if (level == 0) break;
    }
    return earliest;
  }

  /// Takes the next event and sets the clock to its time; nothing when none is pending.
  std::optional<Event> pop() { return pop_until(end_of_time); }

  /// The same for events up to `limit`, inclusive. When there is none, the clock moves to `limit`, unless that is
  /// end_of_time.
  std::optional<Event> pop_until(Time limit) {
    if (size_ != 0) {
      while (true) {
        const unsigned level = lowest_level();
        const std::size_t bucket = first_bucket(level);
        const std::uint32_t index = buckets_[bucket].first;
        const Slot& slot = slots_[index];
        if (level == 0 || slot.next == none) {
          if (slot.time > limit) break;
          const Event event{slot.time, {index, slot.generation}, slot.payload};
          remove(index);
          release(index);
          now_ = origin_ = event.time;
          return event;
        }
        const unsigned shift = level * digit_bits;
        const Time start = slot.time >> shift << shift;
        if (start > limit) break;
        origin_ = start;
        sink(bucket);
      }
    }
    if (limit != end_of_time && limit > now_) now_ = limit;
    return std::nullopt;
  }

 private:
  static constexpr unsigned digit_bits = 6;
  static constexpr std::size_t digits = 64;  // values of a digit, and bits of a word
  static constexpr unsigned levels = 11;     // 63 bits of time
  static constexpr std::uint32_t none = 0xffffffffU;

  struct Slot {
    Time time = 0;
    std::uint32_t previous = none, next = none;  ///< in its bucket; `next` also links the free slots
    std::uint32_t generation = 0;                ///< odd while pending
    std::uint32_t bucket = 0;
    Payload payload{};
  };
  struct Bucket {
    std::uint32_t first, last;
  };

  [[nodiscard]] unsigned lowest_level() const { return static_cast<unsigned>(std::countr_zero(used_levels_)); }
  [[nodiscard]] std::size_t first_bucket(unsigned level) const {
    return level * digits + static_cast<std::size_t>(std::countr_zero(used_buckets_[level]));
  }

  std::uint32_t take_slot() {
    std::uint32_t index = free_;
    if (index == none) {
      index = static_cast<std::uint32_t>(slots_.size());
      slots_.emplace_back();
    } else {
      free_ = slots_[index].next;
    }
    ++slots_[index].generation;
    return index;
  }
  void release(std::uint32_t index) {
    ++slots_[index].generation;
    slots_[index].next = free_;
    free_ = index;
    --size_;
  }

  void append(std::uint32_t index) {
    Slot& slot = slots_[index];
    const auto difference = static_cast<std::uint64_t>(slot.time ^ origin_);
    const unsigned level = difference == 0 ? 0 : (static_cast<unsigned>(std::bit_width(difference)) - 1) / digit_bits;
    const std::size_t digit = static_cast<std::uint64_t>(slot.time) >> (level * digit_bits) & (digits - 1);
    Bucket& bucket = buckets_[level * digits + digit];
    slot.bucket = static_cast<std::uint32_t>(level * digits + digit);
    slot.previous = bucket.last;
    slot.next = none;
    if (bucket.last == none) {
      bucket.first = index;
      used_buckets_[level] |= std::uint64_t{1} << digit;
      used_levels_ |= 1U << level;
    } else {
      slots_[bucket.last].next = index;
    }
    bucket.last = index;
  }
  void remove(std::uint32_t index) {
    const Slot& slot = slots_[index];
    Bucket& bucket = buckets_[slot.bucket];
    (slot.previous == none ? bucket.first : slots_[slot.previous].next) = slot.next;
    (slot.next == none ? bucket.last : slots_[slot.next].previous) = slot.previous;
    if (bucket.first == none) mark_empty(slot.bucket);
  }
  void mark_empty(std::size_t bucket) {
    const std::size_t level = bucket / digits;
    used_buckets_[level] &= ~(std::uint64_t{1} << bucket % digits);
    if (used_buckets_[level] == 0) used_levels_ &= ~(1U << level);
  }
  /// Spreads a bucket, whose start the origin has reached, over lower levels; the order in it is kept.
  void sink(std::size_t bucket) {
    std::uint32_t index = buckets_[bucket].first;
    buckets_[bucket] = {none, none};
    mark_empty(bucket);
    while (index != none) {
      const std::uint32_t next = slots_[index].next;
      append(index);
      index = next;
    }
  }

  std::vector<Slot> slots_;
  std::array<Bucket, levels * digits> buckets_;
  std::array<std::uint64_t, levels> used_buckets_{};  ///< a bit for each bucket with events
  unsigned used_levels_ = 0;                          ///< a bit for each level with events
  std::uint32_t free_ = none;
  std::size_t size_ = 0;
  Time now_ = 0;
  Time origin_ = 0;  ///< what bucket an event is in depends on it: no pending event is earlier, nor is now()
};

}  // namespace evictsim::sim

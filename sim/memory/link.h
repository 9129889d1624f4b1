#pragma once
/// \file
/// A link that moves bytes between two memories, such as PCIe, NVLink, an SSD or a network: latency, bandwidth, and
/// processor sharing between the transfers that are under way (each gets the share of its weight), both directions.
///
/// A transfer of b bytes in p pieces that is alone takes p * piece + b / bandwidth + latency. Pieces (pages that are
/// copied one by one) occupy the link; the latency does not: a transfer that has left the link arrives that much later.
/// Sharing is the fluid limit: with transfers of weights w_i under way, transfer i moves at rate w_i / sum(w) of the
/// direction's bandwidth at every moment (Kleinrock: Time-shared systems, JACM 14(2), 1967). Both directions run at
/// their bandwidth side by side, except that a combined bandwidth, when given, is divided between them equally while
/// both are in use; what one cannot use is the other's.
///
/// Arithmetic is exact: work is counted in integers of 2^-16 of 1e-9 byte, and who leaves next is found by virtual time
/// (the work per unit of weight that has been done since the link was idle), in O(log n) per start, arrival and
/// cancellation whatever n is. Only the virtual time at which a transfer starts is rounded, by less than one such unit,
/// and what rounding leaves over is carried on, so that work is conserved. A transfer leaves at the first whole
/// nanosecond at which less than a millionth of a byte of all is missing. Arrivals do not depend on how often the link
/// is asked.
///
/// The link keeps no queue of events. Its owner keeps one event for it, at next_arrival():
///
///     FollowedEvent link_event;
///     link.start(queue.now(), Direction::up, bytes, pieces, tag);
///     follow(queue, link_event, link.next_arrival(), payload);  // after every change
///     ...
///     // when the event happens:
///     while (const auto arrival = link.pop_arrival(queue.now())) serve(arrival->tag);
///     follow(queue, link_event, link.next_arrival(), payload);

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "models/gpu.h"
#include "models/storage.h"
#include "sim/engine/event_queue.h"
#include "sim/memory/ranked_objects.h"

namespace evictsim::sim {

namespace detail {
__extension__ using Wide = __int128;
}  // namespace detail

/// `up` is toward the processor (host to device, read from disk), `down` away from it.
enum class Direction : std::uint8_t { up, down };

/// One direction of a link.
struct LinkRate {
  std::int64_t bytes_per_second = 0;  ///< 1 to 1e14
  Time latency = 0;
  Time piece = 0;  ///< that each piece occupies the link beside its bytes, when alone
};

struct LinkOptions {
  LinkRate up, down;
  /// Bytes per second of both directions together while both are in use; 0: no such bound.
  std::int64_t combined_bytes_per_second = 0;
};

/// As a description says (models/gpu.h, models/storage.h), rounded to whole nanoseconds and bytes per second. Of a GPU:
/// its copies from and to pinned host memory; throws Error(missing_data) when it has none.
LinkOptions link_options(const models::Storage& storage);
LinkOptions link_options(const models::Gpu& gpu);

/// Names a transfer for cancel(), also after it has arrived.
struct TransferId {
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;  ///< 0 names no transfer
};

struct Arrival {
  Time time = 0;  ///< of the last byte
  std::uint64_t tag = 0;
  std::int64_t bytes = 0;
  Direction direction = Direction::up;
};

/// Bytes of one direction: started = arrived + cancelled + in flight.
struct LinkTotals {
  std::int64_t started = 0;
  std::int64_t arrived = 0;
  std::int64_t cancelled = 0;  ///< whole transfers, whatever part of them had moved
  Time busy = 0;               ///< with a transfer on the link
  [[nodiscard]] std::int64_t in_flight() const { return started - arrived - cancelled; }
};

class Link {
 public:
  /// Throws Error(invalid_argument) for rates and times out of their range.
  explicit Link(const LinkOptions& options);

  /// A transfer begins. `now` must not be before that of an earlier call; all calls treat what happens until `now`
  /// first. Throws Error(invalid_argument) for negative bytes and pieces, a weight outside 1 to 2^20, and when more
  /// than 2^62 bytes were started.
  TransferId start(Time now, Direction direction, std::int64_t bytes, std::int64_t pieces, std::uint64_t tag,
                   std::int64_t weight = 1);
  /// Takes a transfer away that has not arrived; false when it has, or was cancelled before.
  bool cancel(Time now, TransferId id);
  /// Treats what happens until `now`.
  void advance(Time now);
  /// The next transfer that has arrived by `now`, in order of time, then of leaving the link.
  std::optional<Arrival> pop_arrival(Time now);
  /// When the next transfer arrives if nothing else starts; end_of_time for none, or none within the range of Time.
  /// While both directions share a combined bandwidth it may be earlier: when a transfer leaves the link, which changes
  /// rates.
  [[nodiscard]] Time next_arrival() const;

  /// How long a transfer would take if it started now and the others on the link stayed as they are until it has left.
  [[nodiscard]] Time estimate(Direction direction, std::int64_t bytes, std::int64_t pieces,
                              std::int64_t weight = 1) const;

  [[nodiscard]] const LinkTotals& totals(Direction direction) const { return channel(direction).totals; }
  /// Transfers on the link, without those that have left it and not arrived.
  [[nodiscard]] std::int64_t sharing(Direction direction) const { return channel(direction).count; }

  /// Throws std::logic_error when bytes or work are not conserved: the work that the link could do since it was idle is
  /// what left it, what is done of the transfers on it, and a carry below one unit per weight. Linear; for tests.
  void check() const;

 private:
  using Wide = detail::Wide;
  static constexpr std::uint32_t none = 0xffffffffU;

  /// A transfer that is on the link, by the virtual time at which it leaves.
  struct Finish {
    Wide virtual_time = 0;
    std::uint64_t sequence = 0;
    friend bool operator<(const Finish& a, const Finish& b) {
      return a.virtual_time != b.virtual_time ? a.virtual_time < b.virtual_time : a.sequence < b.sequence;
    }
  };
  enum class State : std::uint8_t { free, sharing, arriving, cancelled };
  struct Slot {
    Wide work = 0;    ///< in units
    Wide finish = 0;  ///< virtual time of leaving
    std::uint64_t tag = 0;
    std::int64_t bytes = 0;
    std::int64_t weight = 1;
    Time arrival = 0;
    std::uint64_t departure = 0;  ///< number of its leaving
    std::uint32_t next = none;    ///< behind it on the way, or free
    std::uint32_t generation = 0;
    Direction direction = Direction::up;
    State state = State::free;
  };
  struct Channel {
    explicit Channel(const LinkRate& shape) : options(shape), transfers(0) {}
    LinkRate options;
    RankedObjects<Finish> transfers;
    Wide virtual_time = 0;
    Wide credit = 0;    ///< units that the link could move and that no transfer was given yet; below 0: given ahead
    Wide offered = 0;   ///< units that it could move since it was idle
    Wide demanded = 0;  ///< units of all transfers since it was idle
    std::int64_t weight = 0;  ///< of all that share
    std::int64_t count = 0;
    std::int64_t rate = 0;  ///< now, in half bytes per second
    Time next_departure = end_of_time;
    std::uint32_t first = none, last = none;  ///< on the way, those that have left the link
    LinkTotals totals;
  };

  [[nodiscard]] Channel& channel(Direction direction) { return channels_[static_cast<std::size_t>(direction)]; }
  [[nodiscard]] const Channel& channel(Direction direction) const {
    return channels_[static_cast<std::size_t>(direction)];
  }
  [[nodiscard]] std::int64_t rate_of(Direction direction, bool shared) const;
  [[nodiscard]] Wide work_of(Direction direction, std::int64_t bytes, std::int64_t pieces) const;
  [[nodiscard]] static Wide missing(const Slot& slot, const Channel& channel);
  [[nodiscard]] Time arrival_of(const Channel& channel) const;
  void move_to(Time now);
  void depart(Channel& channel);
  void pass_on(Direction from, Direction to);
  void share_out(Channel& channel);
  void refresh(Direction changed);
  void refresh_departure(Channel& channel) const;
  void drop_cancelled(Channel& channel);
  std::uint32_t take_slot();
  void release(std::uint32_t index);

  std::vector<Slot> slots_;
  std::array<Channel, 2> channels_;
  std::int64_t combined_;
  std::uint32_t free_ = none;
  std::uint64_t started_ = 0, departed_ = 0;
  Time now_ = 0;
};

/// The event that a link's owner keeps for it.
struct FollowedEvent {
  EventId id;
  Time time = end_of_time;
};

/// Keeps one event of `queue` at `time`, and none when that is end_of_time. An event that is there already stays as it
/// is, also its place among events of the same time.
template <typename Payload>
void follow(EventQueue<Payload>& queue, FollowedEvent& event, Time time, const Payload& payload) {
  const bool pending = queue.pending(event.id);
  if (pending && event.time == time) return;
  event.time = time;
  if (time == end_of_time) {
    queue.cancel(event.id);
  } else if (pending) {
    queue.reschedule(event.id, time);
  } else {
    event.id = queue.schedule(time, payload);
  }
}

}  // namespace evictsim::sim

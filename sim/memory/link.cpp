#include "sim/memory/link.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "traces/error.h"

namespace evictsim::sim {
namespace {

using detail::Wide;

constexpr std::int64_t most_bytes_per_second = 100'000'000'000'000;
constexpr std::int64_t most_bytes = std::int64_t{1} << 62U;
constexpr std::int64_t most_weight = std::int64_t{1} << 20U;
/// Work units in 1e-9 byte, and what half a byte per second moves in a nanosecond.
constexpr Wide units = Wide{1} << 16U;
constexpr Wide units_per_half = units / 2;
constexpr Wide units_per_byte = nanoseconds_per_second * units;
/// A transfer leaves when less is missing: above what rounding adds up to, below what a nanosecond moves.
constexpr Wide negligible = units_per_byte / 1'000'000;
constexpr Wide most_work = Wide{1} << 120U;  // so that no product overflows

void require_range(const std::string& name, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value >= least && value <= most) return;
  throw Error(ErrorCode::invalid_argument, "expected " + std::to_string(least) + " to " + std::to_string(most),
              {.parameter = "link " + name, .value = std::to_string(value)});
}

Wide divided_up(Wide dividend, Wide divisor) { return (dividend + divisor - 1) / divisor; }

Time later(Time time, Wide by) { return by > end_of_time - time ? end_of_time : time + static_cast<Time>(by); }

LinkRate link_rate(double bytes_per_second, double latency_seconds, double piece_seconds) {
  const double most = static_cast<double>(most_bytes_per_second);
  return {.bytes_per_second = std::llround(std::clamp(bytes_per_second, 0.0, 2 * most)),
          .latency = from_seconds(latency_seconds),
          .piece = from_seconds(piece_seconds)};
}

}  // namespace

LinkOptions link_options(const models::Storage& storage) {
  const auto rate = [](const models::StorageRate& from) {
    return link_rate(from.bytes_per_second, from.latency_seconds, from.seconds_per_piece);
  };
  LinkOptions options{.up = rate(storage.read), .down = rate(storage.write)};
  if (storage.combined_bytes_per_second) {
    options.combined_bytes_per_second = link_rate(*storage.combined_bytes_per_second, 0, 0).bytes_per_second;
  }
  return options;
}

LinkOptions link_options(const models::Gpu& gpu) {
  const auto rate = [&](const std::optional<models::TransferRate>& from, const char* name) {
    if (!from) {
      throw Error(ErrorCode::missing_data, "the description of this GPU does not say how fast it is",
                  {.parameter = name, .value = gpu.name});
    }
    return link_rate(from->bytes_per_second, from->latency_seconds.value_or(0), 0);
  };
  return {.up = rate(gpu.host_to_device, "host_to_device"), .down = rate(gpu.device_to_host, "device_to_host")};
}

Link::Link(const LinkOptions& options)
    : channels_{Channel(options.up), Channel(options.down)}, combined_(options.combined_bytes_per_second) {
  for (const Channel& each : channels_) {
    require_range("bytes per second", each.options.bytes_per_second, 1, most_bytes_per_second);
    require_range("latency", each.options.latency, 0, end_of_time);
    require_range("time per piece", each.options.piece, 0, end_of_time);
  }
  require_range("combined bytes per second", combined_, 0, most_bytes_per_second);
}

/// In half bytes per second; `shared`: while the other direction is in use.
std::int64_t Link::rate_of(Direction direction, bool shared) const {
  const std::int64_t own = 2 * channel(direction).options.bytes_per_second;
  if (combined_ == 0) return own;
  if (!shared) return std::min(own, 2 * combined_);
  const Direction opposite = direction == Direction::up ? Direction::down : Direction::up;
  const std::int64_t unused = 2 * combined_ - 2 * channel(opposite).options.bytes_per_second;
  return std::min(own, std::max(combined_, unused));
}

Link::Wide Link::work_of(Direction direction, std::int64_t bytes, std::int64_t pieces) const {
  require_range("bytes", bytes, 0, most_bytes);
  require_range("pieces", pieces, 0, most_bytes);
  Wide occupied = 0;
  if (__builtin_mul_overflow(Wide{pieces} * channel(direction).options.piece,
                             units_per_half * rate_of(direction, false), &occupied) ||
      occupied > most_work) {
    throw Error(ErrorCode::invalid_argument, "too many for a link that needs so much time for each",
                {.parameter = "link pieces", .value = std::to_string(pieces)});
  }
  return bytes * units_per_byte + occupied;
}

/// What is still to be moved of a transfer on the link, as far as work was given to transfers.
Link::Wide Link::missing(const Slot& slot, const Channel& channel) {
  const Wide rounded_up = slot.weight * divided_up(slot.work, slot.weight);
  return slot.weight * (slot.finish - channel.virtual_time) - (rounded_up - slot.work);
}

std::uint32_t Link::take_slot() {
  std::uint32_t index = free_;
  if (index == none) {
    index = static_cast<std::uint32_t>(slots_.size());
    slots_.emplace_back();
    for (Channel& each : channels_) each.transfers.resize(static_cast<std::uint32_t>(slots_.capacity()));
  } else {
    free_ = slots_[index].next;
  }
  slots_[index].next = none;
  ++slots_[index].generation;
  return index;
}

void Link::release(std::uint32_t index) {
  slots_[index].state = State::free;
  slots_[index].next = free_;
  free_ = index;
}

/// Gives what the channel could move meanwhile to its transfers, up to less than a unit for each weight.
void Link::share_out(Channel& channel) {
  if (channel.weight == 0 || channel.credit <= 0) return;
  channel.virtual_time += channel.credit / channel.weight;
  channel.credit %= channel.weight;
}

TransferId Link::start(Time now, Direction direction, std::int64_t bytes, std::int64_t pieces, std::uint64_t tag,
                       std::int64_t weight) {
  require_range("weight", weight, 1, most_weight);
  const Wide work = work_of(direction, bytes, pieces);
  Channel& target = channel(direction);
  require_range("bytes", bytes, 0, most_bytes - target.totals.started);
  if (target.demanded > most_work - work) {
    throw Error(ErrorCode::invalid_argument, "the link has been given more than it can ever move",
                {.parameter = "link pieces", .value = std::to_string(pieces)});
  }
  advance(now);
  share_out(target);
  const std::uint32_t index = take_slot();
  Slot& slot = slots_[index];
  slot.work = work;
  slot.finish = target.virtual_time + divided_up(work, weight);
  slot.tag = tag;
  slot.bytes = bytes;
  slot.weight = weight;
  slot.direction = direction;
  slot.state = State::sharing;
  target.transfers.insert(index, {slot.finish, ++started_});
  target.demanded += work;
  target.weight += weight;
  ++target.count;
  target.totals.started += bytes;
  refresh(direction);
  return {index, slot.generation};
}

bool Link::cancel(Time now, TransferId id) {
  advance(now);
  if (id.slot >= slots_.size() || slots_[id.slot].generation != id.generation) return false;
  Slot& slot = slots_[id.slot];
  if (slot.state != State::sharing && slot.state != State::arriving) return false;
  Channel& target = channel(slot.direction);
  target.totals.cancelled += slot.bytes;
  if (slot.state == State::arriving) {
    slot.state = State::cancelled;
    drop_cancelled(target);
    return true;
  }
  share_out(target);
  target.demanded -= missing(slot, target);
  target.transfers.erase(id.slot);
  target.weight -= slot.weight;
  --target.count;
  const Direction direction = slot.direction;
  release(id.slot);
  refresh(direction);
  return true;
}

/// Transfers that were cancelled on their way are passed by when they come first.
void Link::drop_cancelled(Channel& channel) {
  while (channel.first != none && slots_[channel.first].state == State::cancelled) {
    const std::uint32_t index = channel.first;
    channel.first = slots_[index].next;
    if (channel.first == none) channel.last = none;
    release(index);
  }
}

void Link::advance(Time now) {
  if (now < now_) {
    throw Error(ErrorCode::invalid_argument, "a link cannot go back in time, it is at " + std::to_string(now_) + " ns",
                {.parameter = "time", .value = std::to_string(now) + " ns"});
  }
  while (true) {
    const Time next = std::min(channels_[0].next_departure, channels_[1].next_departure);
    if (next > now || next == end_of_time) break;
    move_to(next);
    const bool up = channels_[0].weight != 0;
    const bool down = channels_[1].weight != 0;
    for (Channel& each : channels_) depart(each);
    if (up && channels_[0].weight == 0) pass_on(Direction::up, Direction::down);
    if (down && channels_[1].weight == 0) pass_on(Direction::down, Direction::up);
    refresh(Direction::up);
    refresh(Direction::down);
  }
  move_to(now);
}

void Link::move_to(Time now) {
  const Time passed = now - now_;
  now_ = now;
  for (Channel& each : channels_) {
    if (each.weight == 0) continue;
    const Wide moved = units_per_half * each.rate * passed;
    each.credit += moved;
    each.offered += moved;
    each.totals.busy += passed;
  }
}

/// Lets those leave that are complete.
void Link::depart(Channel& channel) {
  while (channel.weight != 0) {
    const std::uint32_t index = channel.transfers.first();
    Slot& slot = slots_[index];
    const Wide needed = channel.weight * (slot.finish - channel.virtual_time);
    if (needed > channel.credit + negligible) return;
    channel.virtual_time = slot.finish;
    channel.credit -= needed + missing(slot, channel);
    channel.transfers.erase(index);
    channel.weight -= slot.weight;
    --channel.count;
    slot.state = State::arriving;
    slot.arrival = later(now_, channel.options.latency);
    slot.departure = ++departed_;
    (channel.last == none ? channel.first : slots_[channel.last].next) = index;
    channel.last = index;
  }
}

/// A direction became idle within the nanosecond that ends now: for the rest of it the other was faster.
void Link::pass_on(Direction from, Direction to) {
  const Channel& idle = channel(from);
  Channel& other = channel(to);
  if (other.weight == 0 || idle.credit <= 0) return;
  const Wide gained = (rate_of(to, false) - other.rate) * idle.credit / idle.rate;
  other.credit += gained;
  other.offered += gained;
  depart(other);
}

/// After a change of what is on the link in one direction.
void Link::refresh(Direction changed) {
  Channel& target = channel(changed);
  Channel& other = channel(changed == Direction::up ? Direction::down : Direction::up);
  if (target.weight == 0) {
    target.virtual_time = target.credit = target.offered = target.demanded = 0;
  }
  target.rate = rate_of(changed, other.weight != 0);
  refresh_departure(target);
  if (combined_ == 0) return;
  other.rate = rate_of(changed == Direction::up ? Direction::down : Direction::up, target.weight != 0);
  refresh_departure(other);
}

void Link::refresh_departure(Channel& channel) const {
  if (channel.weight == 0) {
    channel.next_departure = end_of_time;
    return;
  }
  const Wide needed = channel.weight * (channel.transfers.first_key().virtual_time - channel.virtual_time);
  const Wide left = needed - negligible - channel.credit;
  channel.next_departure = left <= 0 ? now_ : later(now_, divided_up(left, units_per_half * channel.rate));
}

Time Link::arrival_of(const Channel& channel) const {
  if (channel.first != none) return slots_[channel.first].arrival;
  return later(channel.next_departure, channel.options.latency);
}

Time Link::next_arrival() const {
  const Time next = std::min(arrival_of(channels_[0]), arrival_of(channels_[1]));
  // What leaves one direction may make the other faster before it has arrived itself.
  const bool coupled = combined_ != 0 && channels_[0].weight != 0 && channels_[1].weight != 0;
  return coupled ? std::min({next, channels_[0].next_departure, channels_[1].next_departure}) : next;
}

std::optional<Arrival> Link::pop_arrival(Time now) {
  advance(now);
  Channel* earliest = nullptr;
  for (Channel& each : channels_) {
    if (each.first == none || slots_[each.first].arrival > now) continue;
    const Slot& slot = slots_[each.first];
    if (earliest != nullptr) {
      const Slot& best = slots_[earliest->first];
      if (slot.arrival > best.arrival || (slot.arrival == best.arrival && slot.departure > best.departure)) continue;
    }
    earliest = &each;
  }
  if (earliest == nullptr) return std::nullopt;
  const std::uint32_t index = earliest->first;
  const Slot& slot = slots_[index];
  const Arrival arrival{slot.arrival, slot.tag, slot.bytes, slot.direction};
  earliest->first = slot.next;
  if (earliest->first == none) earliest->last = none;
  earliest->totals.arrived += arrival.bytes;
  release(index);
  drop_cancelled(*earliest);
  return arrival;
}

Time Link::estimate(Direction direction, std::int64_t bytes, std::int64_t pieces, std::int64_t weight) const {
  require_range("weight", weight, 1, most_weight);
  const Channel& target = channel(direction);
  const Channel& other = channel(direction == Direction::up ? Direction::down : Direction::up);
  const Wide work = work_of(direction, bytes, pieces);
  const Wide rate = units_per_half * rate_of(direction, other.weight != 0);
  const Wide weights = target.weight + weight;
  Wide demand = 0;
  const Wide taken = __builtin_mul_overflow(work, weights, &demand) ? divided_up(work, weight * rate) * weights
                                                                    : divided_up(demand, weight * rate);
  return later(target.options.latency, taken);
}

void Link::check() const {
  const auto require = [](bool holds, const char* what) {
    if (!holds) throw std::logic_error(what);
  };
  for (const Channel& each : channels_) {
    Wide left = 0;
    std::int64_t bytes = 0, weight = 0, count = 0;
    for (std::uint32_t i = 0; i < slots_.size(); ++i) {
      const Slot& slot = slots_[i];
      if (&channel(slot.direction) != &each || slot.state == State::free) continue;
      if (slot.state != State::cancelled) bytes += slot.bytes;
      require(each.transfers.contains(i) == (slot.state == State::sharing), "what shares a link is in its order");
      if (slot.state != State::sharing) continue;
      left += missing(slot, each);
      weight += slot.weight;
      ++count;
    }
    require(bytes == each.totals.in_flight(), "bytes are conserved: started = arrived + cancelled + in flight");
    require(weight == each.weight && count == each.count, "weights are those of the transfers");
    require(each.offered - each.credit == each.demanded - left, "work is conserved: offered = done + carried");
    require(each.credit >= -negligible, "no work is done ahead of its time");
    require(count == 0 || each.next_departure <= now_ ||
                each.credit <= each.weight * (each.transfers.first_key().virtual_time - each.virtual_time),
            "no transfer waits that is complete");
  }
}

}  // namespace evictsim::sim

// The inside of TieredStore: room in tiers, movements over links, and the checks of both.
#include <algorithm>
#include <stdexcept>
#include <utility>

#include "sim/memory/replacement_replay.h"
#include "sim/memory/tiered_store.h"
#include "traces/error.h"

namespace evictsim::sim {
namespace {

void require_holds(bool holds, const char* what) {
  if (!holds) throw std::logic_error(what);
}

}  // namespace

/// Makes room in a tier for a chunk that comes with a movement, unless the tier does not admit it.
void TieredStore::reserve(std::uint32_t tier, Object chunk, std::uint32_t movement) {
  Tier& target = tiers_[tier];
  sim::refer(*target.policy, item_of(chunk), room(target), target.used,
             [&](Object victim) { note_evicted(tier, victim); });
  if (!target.policy->contains(chunk)) {
    ++target.totals.refused;
    return;
  }
  target.places[chunk] = 1 + movement;
  ++target.totals.came_in;
  target.totals.most_held = std::max(target.totals.most_held, ++target.totals.held);
  note_use(tier);
  if (!exclusive_) return;
  for (std::uint32_t below = tier + 1; below < tiers_.size(); ++below) remove(below, chunk);
}

void TieredStore::note_use(std::uint32_t tier) {
  TierTotals& totals = tiers_[tier].totals;
  totals.most_bytes = std::max(totals.most_bytes, used_bytes(tier));
}

void TieredStore::note_evicted(std::uint32_t tier, Object chunk) {
  Tier& target = tiers_[tier];
  const std::uint32_t place = std::exchange(target.places[chunk], absent);
  ++target.totals.evicted;
  --target.totals.held;
  if (place != resident) {
    ++target.totals.lost;
  } else if (target.options.write_down == WriteDown::back && tiers_[tier + 1].places[chunk] == absent) {
    target.demoted.push_back(chunk);
  }
}

/// Takes a chunk out of a tier, if it is there, because another place has it.
void TieredStore::remove(std::uint32_t tier, Object chunk) {
  Tier& target = tiers_[tier];
  if (target.places[chunk] == absent) return;
  target.policy->erase(chunk);
  target.places[chunk] = absent;
  --target.used;
  --target.totals.held;
  ++target.totals.moved;
}

/// Whether a faster tier has the chunk: again, when it was evicted to make room for others of its prompt.
bool TieredStore::held_above(std::uint32_t tier, Object chunk) const {
  return std::any_of(tiers_.begin(), tiers_.begin() + tier,
                     [&](const Tier& above) { return above.places[chunk] != absent; });
}

/// Calls `use` for each chunk of `chunk_blocks` that a movement has all blocks of, from the last one to the first, so
/// that policies let go of the end of a prompt before its beginning.
template <typename Use>
void TieredStore::for_chunks(const Movement& movement, std::int64_t chunk_blocks, const Use& use) {
  if (movement.kind == Movement::Kind::demotion) {
    for (const Object chunk : movement.numbers) use(chunk);
    return;
  }
  const auto size = static_cast<std::size_t>(chunk_blocks);
  const std::size_t first = movement.first;
  std::size_t end = (first + movement.numbers.size()) / size * size;
  for (; end > movement.from && end >= first + size; end -= size) use(movement.numbers[end - 1 - first]);
}

/// Reserves room in a tier for what a movement brings and the tier has not.
void TieredStore::collect(std::uint32_t tier, std::uint32_t movement) {
  Movement& moving = movements_[movement];
  const std::vector<std::uint32_t>& places = tiers_[tier].places;
  moving.chunks.clear();
  for_chunks(moving, tiers_[tier].options.chunk_blocks, [&](Object chunk) {
    if (places[chunk] != absent || (exclusive_ && held_above(tier, chunk))) return;
    reserve(tier, chunk, movement);
    moving.chunks.push_back(chunk);
  });
  std::erase_if(moving.chunks, [&](Object chunk) { return places[chunk] != 1 + movement; });
}

/// Sends what was evicted from a tier to the one below.
void TieredStore::write_down(Time now, std::uint32_t tier) {
  if (tiers_[tier].demoted.empty()) return;
  const std::uint32_t movement = take_movement(Movement::Kind::demotion);
  movements_[movement].tier = tier + 1;
  movements_[movement].numbers.swap(tiers_[tier].demoted);
  descend(now, movement);
}

std::uint32_t TieredStore::take_movement(Movement::Kind kind) {
  if (free_movements_.empty()) {
    free_movements_.push_back(static_cast<std::uint32_t>(movements_.size()));
    movements_.emplace_back();
  }
  const std::uint32_t movement = free_movements_.back();
  free_movements_.pop_back();
  movements_[movement].kind = kind;
  movements_[movement].numbers.clear();
  movements_[movement].chunks.clear();
  return movement;
}

void TieredStore::release(std::uint32_t movement) {
  movements_[movement].kind = Movement::Kind::free;
  free_movements_.push_back(movement);
}

void TieredStore::send(Time now, std::uint32_t tier, Direction direction, std::int64_t bytes, std::uint32_t movement) {
  Tier& target = tiers_[tier];
  target.link.start(now, direction, bytes, pieces(target, bytes), movement);
  target.moving[static_cast<std::size_t>(direction)] += bytes;
}

std::int64_t TieredStore::pieces(const Tier& tier, std::int64_t bytes) {
  const std::int64_t piece = tier.options.piece_bytes == 0 ? tier.chunk_bytes : tier.options.piece_bytes;
  return bytes / piece + (bytes % piece == 0 ? 0 : 1);
}

/// Begins the way down into the movement's tier; how many chunks go.
std::size_t TieredStore::descend(Time now, std::uint32_t movement) {
  const std::uint32_t tier = movements_[movement].tier;
  collect(tier, movement);
  const std::size_t chunks = movements_[movement].chunks.size();
  if (movements_[movement].kind == Movement::Kind::demotion) {
    tiers_[tier - 1].totals.written_down += static_cast<std::int64_t>(chunks);
  }
  if (chunks == 0) {
    release(movement);
  } else {
    send(now, tier, Direction::down, static_cast<std::int64_t>(chunks) * tiers_[tier].chunk_bytes, movement);
  }
  write_down(now, tier);
  return chunks;
}

/// Begins the way up out of the movement's tier.
void TieredStore::climb(Time now, std::uint32_t movement) {
  const std::uint32_t tier = movements_[movement].tier;
  const bool leaves_copy = tier > 0 && !exclusive_;
  if (leaves_copy) collect(tier - 1, movement);
  const auto blocks = static_cast<std::int64_t>(movements_[movement].numbers.size());
  send(now, tier, Direction::up, blocks * block_bytes_, movement);
  if (leaves_copy) write_down(now, tier - 1);
}

void TieredStore::arrive(Time now, std::uint32_t tier, std::uint32_t movement) {
  Movement& moving = movements_[movement];
  if (moving.kind == Movement::Kind::transfer) {
    done_.push_back({now, StoreEvent::Kind::transfer, moving.tag});
    release(movement);
    return;
  }
  const bool loads = moving.kind == Movement::Kind::load;
  for (const Object chunk : moving.chunks) {
    std::uint32_t& place = tiers_[loads ? tier - 1 : tier].places[chunk];
    if (place == 1 + movement) place = resident;
  }
  moving.chunks.clear();
  if (loads && tier == 0) {
    finish_part(now, movement);
  } else if (loads) {
    --moving.tier;
    climb(now, movement);
  } else {
    if (moving.kind == Movement::Kind::store && tier == 0) {
      done_.push_back({now, StoreEvent::Kind::store, moving.tag});
    }
    if (tiers_[tier].options.write_down == WriteDown::through) {
      ++moving.tier;
      descend(now, movement);
    } else {
      release(movement);
    }
  }
}

/// What a load brings from one tier is at the device.
void TieredStore::finish_part(Time now, std::uint32_t movement) {
  const Movement& moving = movements_[movement];
  if (exclusive_) {
    for_chunks(moving, tiers_[moving.source].options.chunk_blocks, [&](Object chunk) { remove(moving.source, chunk); });
  }
  Load& load = loads_[moving.load];
  if (--load.parts == 0) {
    done_.push_back({now, StoreEvent::Kind::load, load.tag});
    free_loads_.push_back(moving.load);
  }
  release(movement);
}

/// Treats all arrivals until `now`, in order of time and then of tiers.
void TieredStore::settle(Time now) {
  if (now < now_) {
    throw Error(ErrorCode::invalid_argument, "a store cannot go back in time, it is at " + std::to_string(now_) + " ns",
                {.parameter = "time", .value = std::to_string(now) + " ns"});
  }
  now_ = now;
  while (true) {
    std::uint32_t first = 0;
    Time next = end_of_time;
    for (std::uint32_t tier = 0; tier < tiers_.size(); ++tier) {
      const Time time = tiers_[tier].link.next_arrival();
      if (time < next) {
        next = time;
        first = tier;
      }
    }
    if (next > now || next == end_of_time) break;
    const auto arrival = tiers_[first].link.pop_arrival(next);
    if (!arrival) continue;  // something left the link
    tiers_[first].moving[static_cast<std::size_t>(arrival->direction)] -= arrival->bytes;
    arrive(next, first, static_cast<std::uint32_t>(arrival->tag));
    check_totals();
  }
  // Also those that have left a link and not arrived share it no more.
  for (Tier& tier : tiers_) tier.link.advance(now);
}

/// What can be checked in a time that does not depend on the number of blocks, where assertions are on.
void TieredStore::check_totals() const {
#ifndef NDEBUG
  for (const Tier& tier : tiers_) {
    const TierTotals& totals = tier.totals;
    require_holds(totals.came_in == totals.evicted + totals.moved + totals.held, "chunks are conserved");
    require_holds(static_cast<std::uint64_t>(totals.held) == tier.used, "chunks are counted as the policy does");
    require_holds(tier.used <= room(tier), "a tier holds no more than it has room for");
    require_holds(tier.demoted.empty(), "what is written down is sent at once");
    for (const Direction direction : {Direction::up, Direction::down}) {
      require_holds(tier.link.totals(direction).in_flight() == tier.moving[static_cast<std::size_t>(direction)],
                    "bytes in flight belong to movements");
    }
  }
#endif
}

void TieredStore::check() const {
  check_totals();
  for (std::uint32_t t = 0; t < tiers_.size(); ++t) {
    const Tier& tier = tiers_[t];
    tier.link.check();
    std::int64_t held = 0, on_their_way = 0, listed = 0;
    for (Object chunk = 0; chunk < tier.places.size(); ++chunk) {
      require_holds(tier.policy->contains(chunk) == (tier.places[chunk] != absent),
                    "a tier holds what its policy does");
      held += tier.places[chunk] == absent ? 0 : 1;
      on_their_way += tier.places[chunk] == absent || tier.places[chunk] == resident ? 0 : 1;
    }
    require_holds(held == tier.totals.held, "chunks are counted right");
    for (std::uint32_t m = 0; m < movements_.size(); ++m) {
      const Movement& moving = movements_[m];
      if (moving.kind == Movement::Kind::free) continue;
      const bool into = moving.kind == Movement::Kind::load ? moving.tier == t + 1 : moving.tier == t;
      if (!into) continue;
      listed += std::count_if(moving.chunks.begin(), moving.chunks.end(),
                              [&](Object chunk) { return tier.places[chunk] == 1 + m; });
    }
    require_holds(listed == on_their_way, "every chunk on its way comes with one movement");
  }
  if (!exclusive_) return;
  for (Object chunk = 0; chunk < numbers_.size(); ++chunk) {
    const auto holders =
        std::count_if(tiers_.begin(), tiers_.end(), [&](const Tier& tier) { return tier.places[chunk] != absent; });
    require_holds(holders <= 1, "an exclusive store holds a chunk once");
  }
}

}  // namespace evictsim::sim

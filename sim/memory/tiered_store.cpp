#include "sim/memory/tiered_store.h"

#include <algorithm>
#include <limits>

#include "traces/error.h"

namespace evictsim::sim {
namespace {

constexpr std::size_t most_tiers = 8;
constexpr std::int64_t most_bytes = std::int64_t{1} << 60U;
constexpr std::int64_t most_block_bytes = std::int64_t{1} << 32U;
constexpr std::int64_t most_chunk_blocks = 1 << 20U;
constexpr std::uint64_t most_numbers = 0xffff0000U;  // of blocks, see BlockNumbers

[[noreturn]] void refuse(const std::string& what, const std::string& parameter, const std::string& value) {
  throw Error(ErrorCode::invalid_argument, what, {.parameter = parameter, .value = value});
}

void require_range(const std::string& parameter, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value >= least && value <= most) return;
  refuse("expected " + std::to_string(least) + " to " + std::to_string(most), parameter, std::to_string(value));
}

/// Throws unless chunks that are written down have all their blocks there.
void require_chunks_fit(const std::vector<TierOptions>& tiers) {
  bool alone = false;  // whether chunks come from above one by one, not as part of their prompt
  for (std::size_t i = 0; i < tiers.size(); ++i) {
    if (tiers[i].write_down == WriteDown::none) continue;
    if (i + 1 == tiers.size()) refuse("there is no tier below to write to", "write-down", tiers[i].name);
    alone = alone || tiers[i].write_down == WriteDown::back;
    if (alone && tiers[i].chunk_blocks != tiers[i + 1].chunk_blocks) {
      refuse("evicted chunks can only be written down where chunks are equally large", "blocks per chunk",
             std::to_string(tiers[i].chunk_blocks) + " in " + tiers[i].name + ", " +
                 std::to_string(tiers[i + 1].chunk_blocks) + " in " + tiers[i + 1].name);
    }
  }
}

}  // namespace

TieredStore::Tier::Tier(const TierOptions& given, std::int64_t block_bytes)
    : options(given), chunk_bytes(given.chunk_blocks * block_bytes), link(given.link) {
  require_range("capacity of " + options.name + " in bytes", options.capacity_bytes, 0, most_bytes);
  require_range("bytes per piece of " + options.name, options.piece_bytes, 0, most_bytes);
  const std::int64_t chunks = options.capacity_bytes / chunk_bytes;
  policy = options.replacement.make(
      {.capacity = static_cast<std::uint64_t>(std::max<std::int64_t>(chunks, 1)), .objects = 0, .unit_weights = true});
}

TieredStore::TieredStore(const TieredStoreOptions& options)
    : block_bytes_(options.block_bytes), exclusive_(options.exclusive) {
  require_range("bytes per block", block_bytes_, 1, most_block_bytes);
  if (options.tiers.empty() || options.tiers.size() > most_tiers) {
    refuse("expected 1 to " + std::to_string(most_tiers), "tiers", std::to_string(options.tiers.size()));
  }
  for (const TierOptions& tier : options.tiers) {
    require_range("blocks per chunk of " + tier.name, tier.chunk_blocks, 1, most_chunk_blocks);
    if (exclusive_ && tier.write_down == WriteDown::through) {
      refuse("an exclusive store holds a chunk once, so it cannot write through", "write-down", tier.name);
    }
    tiers_.emplace_back(tier, block_bytes_);
    largest_chunk_ = std::max(largest_chunk_, static_cast<std::size_t>(tier.chunk_blocks));
    sees_future_ = sees_future_ || tier.replacement.kind->sees_future;
  }
  require_chunks_fit(options.tiers);
}

void TieredStore::require_tier(std::uint32_t tier) const {
  if (tier < tiers_.size()) return;
  refuse("expected a number below " + std::to_string(tiers_.size()), "tier", std::to_string(tier));
}

void TieredStore::require_lengths(const PromptBlocks& blocks) const {
  const std::size_t count = blocks.hashes.size();
  if (!blocks.costs.empty() && blocks.costs.size() != count) {
    refuse("expected one for each of " + std::to_string(count) + " blocks", "costs",
           std::to_string(blocks.costs.size()));
  }
  if (!blocks.next_references.empty() && blocks.next_references.size() != count) {
    refuse("expected one for each of " + std::to_string(count) + " blocks", "next references",
           std::to_string(blocks.next_references.size()));
  }
  if (sees_future_ && blocks.next_references.empty() && count != 0) {
    throw Error(ErrorCode::unsupported, "a policy that sees the future must be told when blocks are referenced next",
                {.parameter = "next references", .value = "none"});
  }
}

std::uint64_t TieredStore::room(const Tier& tier) {
  return static_cast<std::uint64_t>((tier.options.capacity_bytes - tier.aside) / tier.chunk_bytes);
}

std::int64_t TieredStore::used_bytes(std::uint32_t tier) const {
  require_tier(tier);
  return tiers_[tier].totals.held * tiers_[tier].chunk_bytes + tiers_[tier].aside;
}

Item TieredStore::item_of(Object chunk) const {
  return {.object = chunk, .weight = 1, .cost = costs_[chunk], .next_reference = next_references_[chunk]};
}

/// Numbers of the blocks [first, last), with what policies may want to know of them.
void TieredStore::number(const PromptBlocks& blocks, std::size_t first, std::size_t last,
                         std::vector<Object>& numbers) {
  numbers.clear();
  for (std::size_t i = first; i < last; ++i) {
    const Object object = numbers_.number(blocks.hashes[i]);
    if (object >= costs_.size()) {
      const auto count = static_cast<std::uint32_t>(std::min(2 * (object + std::uint64_t{512}), most_numbers));
      costs_.resize(count, 1);
      next_references_.resize(count, never);
      for (Tier& tier : tiers_) {
        tier.places.resize(count, absent);
        tier.policy->resize(count);
      }
    }
    if (!blocks.costs.empty()) costs_[object] = blocks.costs[i];
    if (!blocks.next_references.empty()) next_references_[object] = blocks.next_references[i];
    numbers.push_back(object);
  }
}

std::span<const PrefixSegment> TieredStore::find(std::span<const std::uint64_t> hashes, std::size_t from) {
  found_.clear();
  std::size_t asked = hashes.size();  // block whose number `object` is
  std::optional<Object> object;
  for (std::size_t at = from; at < hashes.size();) {
    std::size_t end = at;
    std::uint32_t tier = 0;
    for (; tier < tiers_.size(); ++tier) {
      const auto chunk = static_cast<std::size_t>(tiers_[tier].options.chunk_blocks);
      const std::size_t last = (at / chunk + 1) * chunk - 1;
      if (last >= hashes.size()) continue;
      if (last != asked) {
        asked = last;
        object = numbers_.find(hashes[last]);
      }
      if (object && tiers_[tier].places[*object] == resident) {
        end = last + 1;  // or where a faster tier may go on
        for (std::uint32_t faster = 0; faster < tier; ++faster) {
          const auto step = static_cast<std::size_t>(tiers_[faster].options.chunk_blocks);
          end = std::min(end, (at / step + 1) * step);
        }
        break;
      }
    }
    if (end == at) break;
    if (!found_.empty() && found_.back().tier == tier) {
      found_.back().last = end;
    } else {
      found_.push_back({tier, at, end});
    }
    at = end;
  }
  return found_;
}

std::size_t TieredStore::load(Time now, const PromptBlocks& blocks, std::size_t from, std::size_t until,
                              std::uint64_t tag) {
  require_lengths(blocks);
  settle(now);
  static_cast<void>(find(blocks.hashes, from));  // into found_
  while (!found_.empty() && found_.back().first >= until) found_.pop_back();
  if (found_.empty()) return 0;
  found_.back().last = std::min(found_.back().last, until);
  if (free_loads_.empty()) {
    free_loads_.push_back(static_cast<std::uint32_t>(loads_.size()));
    loads_.emplace_back();
  }
  const std::uint32_t load = free_loads_.back();
  free_loads_.pop_back();
  loads_[load] = {tag, static_cast<std::uint32_t>(found_.size())};
  parts_.clear();
  for (const PrefixSegment& segment : found_) {
    const std::uint32_t part = take_movement(Movement::Kind::load);
    parts_.push_back(part);
    Movement& moving = movements_[part];
    moving.tier = moving.source = segment.tier;
    moving.load = load;
    moving.first = moving.from = segment.first;
    refer(segment, blocks, moving.numbers);
  }
  // Only now, since room for copies may be made by evicting what other parts read.
  for (const std::uint32_t part : parts_) climb(now, part);
  check_totals();
  return found_.back().last - from;
}

/// Counts a reference to each chunk that a segment reads, and numbers its blocks.
void TieredStore::refer(const PrefixSegment& segment, const PromptBlocks& blocks, std::vector<Object>& numbers) {
  Tier& tier = tiers_[segment.tier];
  const auto size = static_cast<std::size_t>(tier.options.chunk_blocks);
  for (std::size_t end = (segment.last + size - 1) / size * size; end > segment.first; end -= size) {
    number(blocks, end - 1, end, numbers);
    tier.policy->hit(item_of(numbers.front()));
  }
  number(blocks, segment.first, segment.last, numbers);
  tier.totals.loaded_blocks += static_cast<std::int64_t>(segment.last - segment.first);
}

std::size_t TieredStore::store(Time now, const PromptBlocks& blocks, std::size_t from, std::uint64_t tag) {
  require_lengths(blocks);
  settle(now);
  if (from >= blocks.hashes.size()) return 0;
  const std::uint32_t movement = take_movement(Movement::Kind::store);
  Movement& moving = movements_[movement];
  moving.tier = 0;
  moving.tag = tag;
  moving.from = from;
  moving.first = from / largest_chunk_ * largest_chunk_;
  number(blocks, moving.first, blocks.hashes.size(), moving.numbers);
  const std::size_t chunks = descend(now, movement);
  check_totals();
  return chunks;
}

void TieredStore::transfer(Time now, std::uint32_t tier, Direction direction, std::int64_t bytes, std::uint64_t tag) {
  require_tier(tier);
  require_range("bytes to transfer", bytes, 0, most_bytes);
  settle(now);
  const std::uint32_t movement = take_movement(Movement::Kind::transfer);
  movements_[movement].tier = tier;
  movements_[movement].tag = tag;
  send(now, tier, direction, bytes, movement);
  check_totals();
}

bool TieredStore::set_aside(Time now, std::uint32_t tier, std::int64_t bytes) {
  require_tier(tier);
  require_range("bytes to set aside", bytes, 0, most_bytes);
  settle(now);
  Tier& target = tiers_[tier];
  if (bytes > target.options.capacity_bytes - target.aside) return false;
  target.aside += bytes;
  while (target.used > room(target)) {
    const Object victim = target.policy->evict();
    --target.used;
    note_evicted(tier, victim);
  }
  note_use(tier);
  write_down(now, tier);
  check_totals();
  return true;
}

void TieredStore::give_back(Time now, std::uint32_t tier, std::int64_t bytes) {
  require_tier(tier);
  settle(now);
  require_range("bytes to give back", bytes, 0, tiers_[tier].aside);
  tiers_[tier].aside -= bytes;
}

Time TieredStore::load_time(std::span<const PrefixSegment> segments) const {
  Time time = 0;
  for (std::uint32_t hop = 0; hop < tiers_.size(); ++hop) {
    std::int64_t bytes = 0;
    for (const PrefixSegment& segment : segments) {
      if (segment.tier >= hop) bytes += static_cast<std::int64_t>(segment.last - segment.first) * block_bytes_;
    }
    if (bytes == 0) continue;
    const Time taken = tiers_[hop].link.estimate(Direction::up, bytes, pieces(tiers_[hop], bytes));
    time = taken > end_of_time - time ? end_of_time : time + taken;
  }
  return time;
}

Time TieredStore::next_time() const {
  if (taken_ < done_.size()) return done_[taken_].time;
  Time next = end_of_time;
  for (const Tier& tier : tiers_) next = std::min(next, tier.link.next_arrival());
  return next;
}

std::optional<StoreEvent> TieredStore::pop(Time now) {
  settle(now);
  if (taken_ == done_.size()) return std::nullopt;
  const StoreEvent event = done_[taken_++];
  if (taken_ == done_.size()) {
    done_.clear();
    taken_ = 0;
  }
  return event;
}

}  // namespace evictsim::sim

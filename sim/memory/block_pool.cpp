#include "sim/memory/block_pool.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

#include "traces/error.h"

namespace evictsim::sim {
namespace {

constexpr std::size_t most_blocks = (std::size_t{1} << 31U) - 1;

std::size_t checked(std::size_t blocks, std::uint32_t tokens_per_block) {
  if (blocks < 1 || blocks > most_blocks) {
    throw Error(ErrorCode::invalid_argument, "expected 1 to 2^31 - 1",
                {.parameter = "blocks", .value = std::to_string(blocks)});
  }
  if (tokens_per_block < 1) {
    throw Error(ErrorCode::invalid_argument, "expected at least 1", {.parameter = "tokens per block", .value = "0"});
  }
  return blocks;
}

/// The finaliser of splitmix64.
std::uint64_t mix(std::uint64_t value) {
  value = (value ^ (value >> 30U)) * 0xbf58476d1ce4e5b9ULL;
  value = (value ^ (value >> 27U)) * 0x94d049bb133111ebULL;
  return value ^ (value >> 31U);
}

}  // namespace

BlockHash chain_hash(BlockHash before, std::span<const std::uint32_t> tokens) {
  BlockHash hash = mix(before + 0x9e3779b97f4a7c15ULL);
  for (const std::uint32_t token : tokens) hash = mix((hash ^ token) + 0x9e3779b97f4a7c15ULL);
  return hash;
}

BlockPool::BlockPool(std::size_t blocks, std::uint32_t tokens_per_block)
    : tokens_per_block_(tokens_per_block),
      states_(checked(blocks, tokens_per_block)),
      queue_(static_cast<std::uint32_t>(blocks)),
      table_(std::bit_ceil(2 * blocks), none),
      shift_(64U - static_cast<unsigned>(std::countr_zero(table_.size()))),
      free_count_(blocks) {
  for (BlockId block = 0; block < blocks; ++block) queue_.push_front(0, block);
}

std::size_t BlockPool::home(BlockHash hash) const {
  return static_cast<std::size_t>((mix(hash) * 0x9e3779b97f4a7c15ULL) >> shift_);
}

/// Where the blocks of that hash are in the table, or the free place where they would be.
std::size_t BlockPool::place_of(BlockHash hash) const {
  std::size_t place = home(hash);
  while (table_[place] != none && states_[table_[place]].hash != hash) place = (place + 1) & (table_.size() - 1);
  return place;
}

std::span<const BlockId> BlockPool::find_prefix(std::span<const BlockHash> hashes, std::uint64_t prompt_tokens) {
  const std::uint64_t most = prompt_tokens == 0 ? 0 : (prompt_tokens - 1) / tokens_per_block_;
  found_.clear();
  for (const BlockHash hash : hashes.first(static_cast<std::size_t>(std::min<std::uint64_t>(hashes.size(), most)))) {
    const BlockId block = table_[place_of(hash)];
    if (block == none) break;
    found_.push_back(block);
  }
  return found_;
}

bool BlockPool::fits(std::span<const BlockId> prefix, std::size_t count) const {
  const auto taken = static_cast<std::size_t>(
      std::count_if(prefix.begin(), prefix.end(), [&](BlockId block) { return states_[block].references == 0; }));
  return count <= free_count_ - taken;
}

void BlockPool::acquire(std::span<const BlockId> blocks) {
  for (const BlockId block : blocks) {
    if (states_[block].references++ != 0) continue;
    queue_.remove(block);
    --free_count_;
  }
}

bool BlockPool::allocate(std::size_t count, std::vector<BlockId>& sequence, std::vector<BlockHash>* forgotten) {
  if (count > free_count_) return false;
  for (std::size_t i = 0; i < count; ++i) {
    const BlockId block = queue_.back(0);
    queue_.remove(block);
    if (states_[block].cached) {
      if (forget(block) && forgotten != nullptr) forgotten->push_back(states_[block].hash);
      ++evictions_;
    }
    states_[block].references = 1;
    sequence.push_back(block);
  }
  free_count_ -= count;
  return true;
}

void BlockPool::publish(BlockId block, BlockHash hash) {
  State& state = states_[block];
  if (state.references == 0 || state.cached) {
    throw std::logic_error("a block is published once, by the sequence that filled it");
  }
  state.hash = hash;
  state.cached = true;
  state.next_equal = none;
  ++cached_count_;
  BlockId* last = &table_[place_of(hash)];
  while (*last != none) last = &states_[*last].next_equal;
  *last = block;
}

void BlockPool::release(std::span<const BlockId> sequence) {
  for (std::size_t i = sequence.size(); i-- > 0;) {
    State& state = states_[sequence[i]];
    if (state.references == 0) throw std::logic_error("a block is released as often as it was acquired");
    if (--state.references != 0) continue;
    queue_.push_front(0, sequence[i]);
    ++free_count_;
  }
}

bool BlockPool::forget(BlockId block) {
  State& state = states_[block];
  const std::size_t place = place_of(state.hash);
  BlockId* link = &table_[place];
  while (*link != block) link = &states_[*link].next_equal;
  *link = state.next_equal;
  state.cached = false;
  --cached_count_;
  const bool last = table_[place] == none;
  if (last) close_gap(place);
  return last;
}

/// Moves entries up that would not be found behind a free place (Knuth, TAOCP 3, 6.4, algorithm R).
void BlockPool::close_gap(std::size_t gap) {
  const std::size_t mask = table_.size() - 1;
  for (std::size_t place = (gap + 1) & mask; table_[place] != none; place = (place + 1) & mask) {
    const std::size_t wanted = home(states_[table_[place]].hash);
    if (((place - wanted) & mask) < ((place - gap) & mask)) continue;
    table_[gap] = table_[place];
    table_[place] = none;
    gap = place;
  }
}

void BlockPool::check() const {
  const auto require = [](bool holds, const char* what) {
    if (!holds) throw std::logic_error(what);
  };
  std::size_t free = 0, cached = 0;
  for (BlockId block = 0; block < states_.size(); ++block) {
    const State& state = states_[block];
    require(queue_.linked(block) == (state.references == 0), "a block is in the queue if and only if it is free");
    free += state.references == 0 ? 1 : 0;
    if (!state.cached) continue;
    ++cached;
    BlockId equal = table_[place_of(state.hash)];
    while (equal != none && equal != block) equal = states_[equal].next_equal;
    require(equal == block, "a cached block is found by its hash");
  }
  require(free == free_count_, "free blocks are conserved");
  require(cached == cached_count_, "cached blocks are counted right");
}

}  // namespace evictsim::sim

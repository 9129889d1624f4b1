#pragma once
/// \file
/// Paged KV memory of one model replica: blocks of a fixed number of tokens, shared between sequences with equal
/// prefixes by reference counts, as in vLLM's V1 engine (Kwon and others: PagedAttention, SOSP 2023, section 4; vLLM,
/// automatic prefix caching).
///
/// A block is free when nobody refers to it. Free blocks stand in a queue; one that holds a full block of some prompt
/// stays findable there until it is handed out anew, which is the eviction. So the queue is an LRU order of blocks.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "sim/memory/object_lists.h"

namespace evictsim::sim {

using BlockId = std::uint32_t;
/// Names the tokens of a full block and of all blocks before it.
using BlockHash = std::uint64_t;

/// The hash of a full block from that of the block before it (0 for the first) and its tokens.
BlockHash chain_hash(BlockHash before, std::span<const std::uint32_t> tokens);

class BlockPool {
 public:
  /// Throws Error(invalid_argument) for no blocks, 2^31 or more, and for blocks of no tokens.
  BlockPool(std::size_t blocks, std::uint32_t tokens_per_block);

  [[nodiscard]] std::size_t blocks() const { return states_.size(); }
  [[nodiscard]] std::size_t free_blocks() const { return free_count_; }
  [[nodiscard]] std::size_t used_blocks() const { return states_.size() - free_count_; }
  [[nodiscard]] std::uint32_t tokens_per_block() const { return tokens_per_block_; }
  /// Blocks that hold that many tokens, the last one perhaps in part.
  [[nodiscard]] std::size_t blocks_for(std::uint64_t tokens) const {
    return static_cast<std::size_t>((tokens + tokens_per_block_ - 1) / tokens_per_block_);
  }

  /// The longest cached beginning of a prompt: its blocks in order, none of them referred to by this call. `hashes` are
  /// those of its full blocks. The last token is always computed, since its logits are needed, so a prompt that is
  /// cached as a whole leaves out its last block. The result is valid until the pool changes.
  [[nodiscard]] std::span<const BlockId> find_prefix(std::span<const BlockHash> hashes, std::uint64_t prompt_tokens);

  /// Whether acquire(`prefix`) and then allocate(`count`) would succeed: free blocks of the prefix leave the queue.
  [[nodiscard]] bool fits(std::span<const BlockId> prefix, std::size_t count) const;
  /// One more reference to each; those that were free are so no longer.
  void acquire(std::span<const BlockId> blocks);
  /// Appends `count` blocks from the head of the queue, with one reference each, to `sequence`; what they cached is
  /// forgotten. False, and nothing changes, when fewer are free. Appends to `forgotten` the hashes that are in the pool
  /// no more, in the order in which they left.
  bool allocate(std::size_t count, std::vector<BlockId>& sequence, std::vector<BlockHash>* forgotten = nullptr);
  /// A referred block was filled: others may find it from now on. Of blocks with equal hashes the one that was filled
  /// first is found. A block has at most one hash until it is handed out anew.
  void publish(BlockId block, BlockHash hash);
  /// One reference less to each block of a sequence, given from first to last. Those that become free go to the tail
  /// of the queue from the last to the first, so that a prefix outlives its continuations.
  void release(std::span<const BlockId> sequence);

  [[nodiscard]] std::uint32_t references(BlockId block) const { return states_[block].references; }
  [[nodiscard]] bool cached(BlockId block) const { return states_[block].cached; }
  /// Cached blocks handed out anew so far.
  [[nodiscard]] std::uint64_t evictions() const { return evictions_; }
  /// Blocks that are found, in use or free.
  [[nodiscard]] std::size_t cached_blocks() const { return cached_count_; }

  /// Throws std::logic_error when blocks are not conserved: free blocks are those without references, each once in
  /// the queue, and every cached block is found. Linear; for debug builds and tests.
  void check() const;

 private:
  static constexpr BlockId none = 0xffffffffU;
  struct State {
    BlockHash hash = 0;
    BlockId next_equal = none;  ///< cached block with the same hash, filled later
    std::uint32_t references = 0;
    bool cached = false;
  };
  [[nodiscard]] std::size_t home(BlockHash hash) const;
  [[nodiscard]] std::size_t place_of(BlockHash hash) const;
  /// Whether the block's hash is in the pool no more.
  bool forget(BlockId block);
  void close_gap(std::size_t gap);

  std::uint32_t tokens_per_block_;
  std::vector<State> states_;
  ObjectLists<1> queue_;        ///< of free blocks, the head at its back
  std::vector<BlockId> table_;  ///< by hash, open addressing, at most half in use
  unsigned shift_;
  std::vector<BlockId> found_;  ///< what find_prefix() answered last
  std::size_t free_count_;
  std::size_t cached_count_ = 0;
  std::uint64_t evictions_ = 0;
};

}  // namespace evictsim::sim

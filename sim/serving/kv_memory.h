#pragma once
/// \file
/// KV memory of a replica as its scheduler sees it: sequences are admitted, grow and leave; full blocks are found again
/// by equal prefixes.

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "sim/memory/block_pool.h"
#include "sim/serving/kv_tiers.h"
#include "sim/serving/sequence.h"
#include "sim/serving/serving.h"

namespace evictsim::sim {

/// Hashes of a request's full blocks of `block_tokens` tokens, as far as its known prefix reaches, into `hashes`.
void prefix_hashes(const traces::WorkloadRequest& request, int block_tokens, std::vector<BlockHash>& hashes);

class KvMemory {
 public:
  /// `listener`: not owned; null: nobody hears of cached blocks.
  KvMemory(const ReplicaGroup& group, bool prefix_cache, BlockListener* listener = nullptr);

  /// What the sequence keeps and reads; null: everything.
  [[nodiscard]] const ResidentCache* cache_of(const Sequence& sequence) const {
    return sequence.resident != nullptr ? sequence.resident : resident_.get();
  }
  /// Whether the prompt of a request and then all but the last of `output` tokens fit, alone.
  [[nodiscard]] bool can_hold(const Sequence& sequence, std::int64_t output) const;
  /// Blocks that the sequence holds when `context` of its tokens are computed.
  [[nodiscard]] std::int64_t blocks_at(const Sequence& sequence, std::int64_t context) const;
  /// The context, up to `context`, at which a sequence that computes them holds most: the end of its prompt where a cut
  /// follows.
  [[nodiscard]] std::int64_t fullest_context(const Sequence& sequence, std::int64_t context) const;

  /// Tokens of the sequence in the prefix cache; the last one is never counted.
  [[nodiscard]] std::int64_t cached_tokens(const Sequence& sequence);
  /// For a sequence without blocks: takes what is cached and room for the first `context` tokens, if there is room for
  /// `reserved` of them. Nothing changes if there is not.
  bool admit(Sequence& sequence, std::int64_t cached, std::int64_t context, std::int64_t reserved) {
    if (!fits(sequence, cached, context, reserved)) return false;
    take(sequence, cached, context);
    publish(sequence, std::min(context, sequence.target));
    return true;
  }
  /// Whether admit() would find room.
  [[nodiscard]] bool fits(const Sequence& sequence, std::int64_t cached, std::int64_t context, std::int64_t reserved);
  /// As admit(), but what is not cached is loaded first: it is published by loaded().
  bool admit_to_load(Sequence& sequence, std::int64_t cached, std::int64_t context) {
    if (!fits(sequence, cached, context, context)) return false;
    take(sequence, cached, context);
    return true;
  }
  /// The first `tokens` tokens have come.
  void loaded(Sequence& sequence, std::int64_t tokens) { publish(sequence, tokens); }
  /// Room for `context` tokens, or fewer blocks than before where an evicting cache shrinks. Full blocks are published,
  /// as in vLLM when the step that fills them is scheduled. False, and nothing changes, when there is no room.
  bool grow(Sequence& sequence, std::int64_t context);
  /// Leaves all blocks. `resumes`: the sequence will come back and look for them.
  void release(Sequence& sequence, bool resumes);

  [[nodiscard]] std::int64_t blocks() const { return static_cast<std::int64_t>(pool_.blocks()); }
  [[nodiscard]] std::int64_t free_blocks() const { return static_cast<std::int64_t>(pool_.free_blocks()); }
  [[nodiscard]] std::int64_t used_blocks() const { return static_cast<std::int64_t>(pool_.used_blocks()); }
  [[nodiscard]] std::int64_t peak_used_blocks() const { return peak_used_; }
  [[nodiscard]] std::int64_t evicted_blocks() const { return static_cast<std::int64_t>(pool_.evictions()); }
  /// Blocks published so far. While it and the free blocks do not grow, what did not fit does not fit.
  [[nodiscard]] std::int64_t publications() const { return publications_; }
  [[nodiscard]] int block_tokens() const { return block_tokens_; }
  [[nodiscard]] bool prefix_cache() const { return prefix_cache_; }
  /// Whether grow() would change anything.
  [[nodiscard]] bool grows(const Sequence& sequence, std::int64_t context) const {
    return blocks_at(sequence, context) != static_cast<std::int64_t>(sequence.blocks.size()) ||
           (context % block_tokens_ == 0 && sequence.published < sequence.hashes.size());
  }
  /// Whether any block is found again.
  [[nodiscard]] bool caches_blocks() const { return pool_.cached_blocks() > 0; }
  /// Throws std::logic_error when blocks are not conserved.
  void check() const { pool_.check(); }

 private:
  [[nodiscard]] std::span<const BlockId> prefix_of(const Sequence& sequence, std::size_t blocks);
  [[nodiscard]] std::size_t blocks_beyond(const Sequence& sequence, std::size_t prefix, std::int64_t context) const;
  void take(Sequence& sequence, std::int64_t cached, std::int64_t context);
  void publish(Sequence& sequence, std::int64_t context);
  bool allocate(Sequence& sequence, std::int64_t blocks);
  bool shrink(Sequence& sequence, std::int64_t blocks);

  int block_tokens_;
  bool prefix_cache_;
  std::shared_ptr<const ResidentCache> resident_;
  BlockPool pool_;
  BlockListener* listener_;
  std::vector<BlockHash> forgotten_;
  std::int64_t peak_used_ = 0;
  std::int64_t publications_ = 0;
};

}  // namespace evictsim::sim

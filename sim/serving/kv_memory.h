#pragma once
/// \file
/// KV memory of a replica as its scheduler sees it: sequences are admitted, grow and leave; full blocks are found again
/// by equal prefixes.

#include <cstdint>
#include <span>
#include <vector>

#include "sim/memory/block_pool.h"
#include "sim/serving/sequence.h"
#include "sim/serving/serving.h"

namespace evictsim::sim {

/// Hashes of a request's full blocks of `block_tokens` tokens, as far as its known prefix reaches, into `hashes`.
void prefix_hashes(const traces::WorkloadRequest& request, int block_tokens, std::vector<BlockHash>& hashes);

class KvMemory {
 public:
  KvMemory(const ReplicaGroup& group, bool prefix_cache);

  /// Whether a request's prompt and then all but the last of its output tokens fit, alone.
  [[nodiscard]] bool can_hold(std::int64_t prompt, std::int64_t output) const;
  /// Blocks that the sequence holds when `context` of its tokens are computed.
  [[nodiscard]] std::int64_t blocks_at(const Sequence& sequence, std::int64_t context) const;
  /// The context, up to `context`, at which a sequence that computes them holds most: the end of its prompt where a cut
  /// follows.
  [[nodiscard]] std::int64_t fullest_context(const Sequence& sequence, std::int64_t context) const;

  /// Tokens of the sequence in the prefix cache; the last one is never counted.
  [[nodiscard]] std::int64_t cached_tokens(const Sequence& sequence);
  /// For a sequence without blocks: takes what is cached and room for the first `context` tokens, if there is room for
  /// `reserved` of them. Nothing changes if there is not.
  bool admit(Sequence& sequence, std::int64_t cached, std::int64_t context, std::int64_t reserved);
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
  /// Throws std::logic_error when blocks are not conserved.
  void check() const { pool_.check(); }

 private:
  void publish(Sequence& sequence, std::int64_t context);
  bool allocate(Sequence& sequence, std::int64_t blocks);
  bool shrink(Sequence& sequence, std::int64_t blocks);

  int block_tokens_;
  bool prefix_cache_;
  std::shared_ptr<const ResidentCache> resident_;
  BlockPool pool_;
  std::int64_t peak_used_ = 0;
  std::int64_t publications_ = 0;
};

}  // namespace evictsim::sim

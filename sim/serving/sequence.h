#pragma once
/// \file
/// A request inside the serving simulation.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "models/step_time.h"
#include "sim/memory/block_pool.h"
#include "sim/serving/resident_cache.h"

namespace evictsim::sim {

using SequenceId = std::uint32_t;

inline constexpr int no_microbatch = -1;

struct Sequence {
  std::size_t request = 0;         ///< index of its record
  std::int64_t prompt = 0;         ///< tokens
  std::int64_t output = 0;         ///< tokens to generate
  std::int64_t generated = 0;      ///< so far
  std::int64_t computed = 0;       ///< tokens whose keys and values are in memory
  std::int64_t target = 0;         ///< tokens known: when they are computed, the next one is known
  std::int64_t host_bytes = 0;     ///< swapped out
  std::int64_t loaded = 0;         ///< tokens of its prefix that came from tiers
  int microbatch = no_microbatch;  ///< in which it runs
  bool swapped = false;
  bool looked_up = false;         ///< counted as a prompt that the prefix cache was asked for
  std::vector<BlockId> blocks;    ///< held, from the first token on
  std::vector<BlockHash> hashes;  ///< of full blocks, as far as known
  std::size_t published = 0;      ///< leading blocks that others find

  const ResidentCache* resident = nullptr;  ///< its own; null: that of its replica's group
  TierBytes in_tiers{};                     ///< of what it keeps there, as ResidentCache::traffic() says
  std::int64_t below = 0;                   ///< bytes of the first tier that it has, see ResidentCache::tokens_below()
  bool went_below = false;                  ///< they are there, or on their way

  /// What decode steps read from context `since` to `until`, as ResidentCache said; not used where everything is read.
  std::int64_t units = 0, units_per_token = 0, since = 0, until = -1;
  models::Femtoseconds extra = 0;

  /// Its next step computes one token on top of a finished prompt.
  [[nodiscard]] bool decodes() const { return generated > 0 && target - computed == 1; }
};

/// Sequences by number; those of destroyed ones are used again, with their memory.
class SequenceStore {
 public:
  Sequence& operator[](SequenceId id) { return sequences_[id]; }
  const Sequence& operator[](SequenceId id) const { return sequences_[id]; }

  SequenceId create() {
    if (!unused_.empty()) {
      const SequenceId id = unused_.back();
      unused_.pop_back();
      return id;
    }
    sequences_.emplace_back();
    return static_cast<SequenceId>(sequences_.size() - 1);
  }
  /// It holds no blocks any more.
  void destroy(SequenceId id) {
    Sequence& old = sequences_[id];
    Sequence fresh;
    fresh.blocks = std::move(old.blocks);
    fresh.hashes = std::move(old.hashes);
    fresh.blocks.clear();
    fresh.hashes.clear();
    old = std::move(fresh);
    unused_.push_back(id);
  }

 private:
  std::vector<Sequence> sequences_;
  std::vector<SequenceId> unused_;
};

}  // namespace evictsim::sim

#pragma once
/// \file
/// Small numbers for hashes of blocks, for tables and replacement policies that are indexed by them.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "sim/memory/replacement.h"

namespace evictsim::sim {

/// A hash keeps its number for ever, so that policies remember what they evicted. Allocates only when more different
/// hashes are numbered than ever before.
class BlockNumbers {
 public:
  [[nodiscard]] std::optional<Object> find(std::uint64_t hash) const;
  /// Throws Error(unsupported) beyond 2^32 - 2^16 hashes.
  Object number(std::uint64_t hash);
  [[nodiscard]] std::uint32_t size() const { return static_cast<std::uint32_t>(hashes_.size()); }

 private:
  [[nodiscard]] std::size_t place_of(std::uint64_t hash) const;
  void grow();

  std::vector<std::uint64_t> hashes_;  ///< by number
  std::vector<Object> table_;          ///< 1 + number, open addressing, at most half in use; 0: free
  unsigned shift_ = 64;
};

}  // namespace evictsim::sim

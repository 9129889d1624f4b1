#pragma once
/// \file
/// One cache of fixed capacity under a replacement policy, reference by reference: what a tier of memory is to a
/// simulation. Whole traces go faster through sim/memory/hit_ratio.h.

#include <functional>
#include <memory>

#include "sim/memory/replacement_kind.h"

namespace evictsim::sim {

class ReplacementCache {
 public:
  /// Throws Error(invalid_argument) for a capacity of 0 and Error(unsupported) for a policy that sees the future, whose
  /// references are not known here.
  ReplacementCache(const Replacement& replacement, const ReplacementShape& shape);

  /// Refers to an object: whether it was resident. If not, it comes in, unless it is larger than the cache or the
  /// policy does not admit it, and `evicted` is called for each object that leaves for it. Throws
  /// Error(invalid_argument) for a weight of 0, and other than 1 where the shape says unit weights.
  bool refer(const Item& item, const std::function<void(Object)>& evicted = {});
  [[nodiscard]] bool contains(Object object) const { return object < objects_ && policy_->contains(object); }
  /// Takes a resident object away; false when it is not resident.
  bool erase(Object object);
  /// Units taken, at most capacity().
  [[nodiscard]] std::uint64_t used() const { return used_; }
  [[nodiscard]] std::uint64_t capacity() const { return capacity_; }

 private:
  std::unique_ptr<ReplacementPolicy> policy_;
  std::uint64_t capacity_;
  std::uint64_t used_ = 0;
  std::uint32_t objects_;
  bool unit_weights_;
};

}  // namespace evictsim::sim

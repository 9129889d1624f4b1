#pragma once
/// \file
/// What a replacement policy of a cache is: which object leaves when room is needed.
///
/// A policy orders objects; whoever uses it owns the room. For every reference the user calls
///
///     if (policy.contains(object)) policy.hit(item);
///     else {
///       policy.miss(item);
///       if (policy.admits(item)) {
///         while (no room) take away policy.evict();
///         policy.insert(item);
///       }
///     }
///
/// which is what ReplacementCache (sim/memory/replacement_cache.h) does for one cache of fixed capacity. Policies are
/// made by name, sim/memory/replacement_kind.h. None allocates per reference, and none draws random numbers.

#include <cstdint>
#include <limits>

#include "traces/blocks/block_trace.h"

namespace evictsim::sim {

/// Objects are small numbers, so that policies keep tables instead of hash maps.
using traces::Object;

inline constexpr std::uint64_t never = std::numeric_limits<std::uint64_t>::max();

/// One reference to an object.
struct Item {
  Object object = 0;
  std::uint64_t weight = 1;  ///< units of capacity it takes: 1, or bytes; at least 1
  double cost = 1;           ///< of fetching or recomputing it, for policies that weigh costs; finite, above 0
  /// Index of the next reference to the object, or `never`. Only policies that see the future read it; a user who
  /// cannot know leaves it.
  std::uint64_t next_reference = never;
};

class ReplacementPolicy {
 public:
  ReplacementPolicy() = default;
  ReplacementPolicy(const ReplacementPolicy&) = delete;
  ReplacementPolicy& operator=(const ReplacementPolicy&) = delete;
  virtual ~ReplacementPolicy() = default;

  /// Whether the object is resident: inserted, and neither evicted nor erased since.
  [[nodiscard]] virtual bool contains(Object object) const = 0;
  /// Units that a resident object takes.
  [[nodiscard]] virtual std::uint64_t weight(Object object) const = 0;
  /// A resident object is referenced again. Its weight stays what it was when it came in.
  virtual void hit(const Item& item) = 0;
  /// An object that is not resident is referenced, before room is made: policies with ghosts learn here.
  virtual void miss(const Item& item) = 0;
  /// After miss(): whether the object may come in at all.
  [[nodiscard]] virtual bool admits(const Item& item) const = 0;
  /// Chooses a resident object, which is resident no longer. At least one must be.
  virtual Object evict() = 0;
  /// Takes in an object that is not resident, after miss() and admits().
  virtual void insert(const Item& item) = 0;
  /// Forgets a resident object without calling it evicted, as when it became invalid or went to another tier.
  virtual void erase(Object object) = 0;
  /// Makes room for objects numbered below `objects`.
  virtual void resize(std::uint32_t objects) = 0;
};

/// What a policy is made for.
struct ReplacementShape {
  std::uint64_t capacity = 1;  ///< units; policies size their queues and ghosts by it
  std::uint32_t objects = 0;   ///< objects are numbered below this
  bool unit_weights = true;    ///< every weight is 1
};

}  // namespace evictsim::sim

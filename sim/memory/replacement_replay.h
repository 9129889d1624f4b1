#pragma once
/// \file
/// Whole traces through one cache, with calls to the policy resolved when compiling. Used by the files of policies.

#include <algorithm>
#include <type_traits>
#include <utility>

#include "sim/memory/object_lists.h"
#include "sim/memory/replacement_kind.h"

namespace evictsim::sim {

/// One reference to a cache that holds `used` of `capacity` units: whether it hit. `evicted(object)` is called for each
/// object that leaves. An object that weighs more than the whole capacity passes by.
template <typename Policy, typename Evicted>
bool refer(Policy& policy, const Item& item, std::uint64_t capacity, std::uint64_t& used, const Evicted& evicted) {
  if (policy.contains(item.object)) {
    policy.hit(item);
    return true;
  }
  policy.miss(item);
  if (item.weight > capacity || !policy.admits(item)) return false;
  while (used + item.weight > capacity) {
    const Object victim = policy.evict();
    used -= policy.weight(victim);
    evicted(victim);
  }
  policy.insert(item);
  used += item.weight;
  return false;
}

namespace detail {

inline constexpr std::size_t prefetch_ahead = 24;
inline constexpr std::size_t neighbours_ahead = 12;

template <typename Policy>
concept Prefetching = requires(const Policy& policy, Object object) {
  policy.prefetch_neighbours(object);
};

template <bool Bytes, bool SeesFuture, bool CountMisses, typename Policy>
ReplayCounts replay_trace(Policy& policy, const ReplayInput& input) {
  const traces::BlockTrace& trace = *input.trace;
  const std::size_t count = trace.references.size();
  ReplayCounts counts;
  if constexpr (CountMisses) counts.misses.resize(trace.objects);
  std::uint64_t used = 0;
  const auto take_in = [&](std::size_t i) {
    Item item{.object = trace.references[i]};
    if constexpr (Bytes) item.weight = trace.sizes[i];
    if constexpr (SeesFuture) {
      const std::uint32_t next = (*input.next_references)[i];
      if (next != 0) item.next_reference = next;
    }
    return refer(policy, item, input.capacity, used, [](Object) {});
  };
  const auto note = [&](std::size_t i, bool hit) {
    counts.hits += hit ? 1 : 0;
    if constexpr (CountMisses) counts.misses[trace.references[i]] += hit ? 0 : 1;
  };
  if (trace.request_ends.empty()) {
    for (std::size_t i = 0; i < count; ++i) {
      if constexpr (Prefetching<Policy>) {
        // Two steps: the neighbours are known once the object's links have arrived.
        if (i + prefetch_ahead < count) {
          policy.prefetch(trace.references[i + prefetch_ahead]);
          policy.prefetch_neighbours(trace.references[i + neighbours_ahead]);
        }
      }
      note(i, take_in(i));
    }
  } else {
    std::size_t first = 0;
    for (const std::size_t end : trace.request_ends) {
      for (std::size_t i = first; i < end; ++i) note(i, policy.contains(trace.references[i]));
      for (; first < end; ++first) take_in(first);
    }
  }
  return counts;
}

template <template <typename> typename Policy, bool SeesFuture>
ReplayCounts replay_kind(const policies::Parameters& parameters, const ReplayInput& input) {
  const ReplacementShape shape{
      .capacity = input.capacity, .objects = input.trace->objects, .unit_weights = !input.bytes};
  if (input.bytes) {
    Policy<ByteWeights> policy(parameters, shape);
    return input.count_misses ? replay_trace<true, SeesFuture, true>(policy, input)
                              : replay_trace<true, SeesFuture, false>(policy, input);
  }
  Policy<UnitWeights> policy(parameters, shape);
  return input.count_misses ? replay_trace<false, SeesFuture, true>(policy, input)
                            : replay_trace<false, SeesFuture, false>(policy, input);
}

template <template <typename> typename Policy>
std::unique_ptr<ReplacementPolicy> make_policy(const policies::Parameters& parameters, const ReplacementShape& shape) {
  if (shape.unit_weights) return std::make_unique<Policy<UnitWeights>>(parameters, shape);
  return std::make_unique<Policy<ByteWeights>>(parameters, shape);
}

}  // namespace detail

/// Completes `kind`, which has a name, a sentence and a citation, for `Policy<Weights>(parameters, shape)`.
template <template <typename> typename Policy, bool SeesFuture = false>
ReplacementKind make_kind(ReplacementKind kind) {
  kind.sees_future = SeesFuture;
  kind.make = detail::make_policy<Policy>;
  kind.replay = detail::replay_kind<Policy, SeesFuture>;
  return kind;
}

}  // namespace evictsim::sim

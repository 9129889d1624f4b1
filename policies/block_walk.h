#pragma once
/// \file
/// Eviction at the ends of blocks of rows, prompt and decode rows alike, as ForesightKV (arXiv 2602.03203) runs it:
/// whenever a block is full, as many of the older entries go. A prompt that is scored at once is walked through block
/// by block.

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "policies/cache_view.h"
#include "policies/scores.h"

namespace evictsim::policies {

struct BlockPlan {
  Index block = 1;  ///< rows per block, and entries dropped with each
  Index kept = 1;   ///< entries left after a step: the largest multiple of `block` in the budget
};

/// A budget of less than two blocks makes blocks of half of it (our inference; the authors' code needs two).
inline BlockPlan plan_blocks(Index every, Index entries) {
  const Index block = std::min(every, std::max<Index>(1, entries / 2));
  return {block, std::max(block, entries / block * block)};
}

/// Takes all steps that are due in a head whose earlier ones have been taken, and drops what they drop.
/// `keep_values(places, older, seen)` answers the value of the first `older` of the resident entries `places` (of
/// `cache.entries(head)`, ascending) when `seen` rows have been attended, higher = stays; an empty answer ends the
/// walk. A ranked entry's score is its value at the last step that ranked it; entries never ranked are protected.
template <typename KeepValues>
void walk_blocks(const CacheView& cache, int head, const BlockPlan& plan, LayerScores& scores,
                 const KeepValues& keep_values) {
  const auto entries = cache.entries(head);
  std::vector<Index> places(entries.size());
  std::iota(places.begin(), places.end(), Index{0});
  std::vector<bool> ranked(entries.size(), false);
  const auto count_before_row = [&](Index row) {
    const auto is_before = [&](Index place, Index limit) { return entries[static_cast<std::size_t>(place)] < limit; };
    return std::lower_bound(places.begin(), places.end(), row, is_before) - places.begin();
  };
  const Index steps_taken = (cache.seen() - std::ssize(entries)) / plan.block;
  for (Index seen = plan.kept + plan.block * (steps_taken + 1); seen <= cache.seen(); seen += plan.block) {
    const Index older = count_before_row(seen - plan.block);
    const std::span<const Index> resident(places.data(), static_cast<std::size_t>(count_before_row(seen)));
    const std::vector<double> values = keep_values(resident, older, seen);
    if (values.empty()) break;
    std::vector<Index> order(static_cast<std::size_t>(older));
    std::iota(order.begin(), order.end(), Index{0});
    // Of equal values the older entry stays.
    std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) {
      return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
    });
    std::vector<bool> goes(static_cast<std::size_t>(older), false);
    for (Index rank = 0; rank < older; ++rank) {
      const auto candidate = static_cast<std::size_t>(order[static_cast<std::size_t>(rank)]);
      const auto place = static_cast<std::size_t>(places[candidate]);
      scores.of(head)[place] = static_cast<float>(values[candidate]);
      ranked[place] = true;
      if (rank < older - plan.block) continue;
      goes[candidate] = true;
      scores.drop(head, static_cast<Index>(place));
    }
    std::size_t next = 0;
    std::erase_if(places, [&](Index) { return next < goes.size() && goes[next++]; });
  }
  for (std::size_t place = 0; place < ranked.size(); ++place) {
    if (!ranked[place]) scores.protect(head, static_cast<Index>(place));
  }
}

}  // namespace evictsim::policies

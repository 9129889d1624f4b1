#include "sim/serving/router.h"

#include <algorithm>

namespace evictsim::sim {

std::size_t Router::choose(std::span<Replica> replicas, const Sequence& sequence, Time now) {
  if (routing_ == Routing::round_robin || replicas.size() == 1) {
    const std::size_t chosen = next_;
    next_ = (next_ + 1) % replicas.size();
    return chosen;
  }
  const auto by_load = [](const Replica& a, const Replica& b) { return a.load() < b.load(); };
  auto best = std::min_element(replicas.begin(), replicas.end(), by_load);
  if (routing_ == Routing::prefix_aware && !sequence.hashes.empty()) {
    const std::int64_t most_load = best->load() + imbalance_;
    std::int64_t most_cached = 0;
    for (auto replica = replicas.begin(); replica != replicas.end(); ++replica) {
      if (replica->load() > most_load) continue;
      replica->catch_up(now);
      const std::int64_t cached = replica->cached_tokens(sequence, now);
      if (cached > most_cached || (cached == most_cached && replica->load() < best->load())) {
        most_cached = cached;
        best = replica;
      }
    }
  }
  return static_cast<std::size_t>(best - replicas.begin());
}

}  // namespace evictsim::sim

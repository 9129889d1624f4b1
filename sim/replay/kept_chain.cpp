#include "sim/replay/kept_chain.h"

#include <algorithm>
#include <limits>

namespace evictsim::sim {
namespace {

constexpr std::uint16_t nowhere = std::numeric_limits<std::uint16_t>::max();

std::size_t total(const KeptSets& sets) {
  std::size_t count = 0;
  for (const auto& head : sets.kept) count += head.size();
  return count;
}

/// Whether the sets contain all that the chain's largest member keeps.
bool contains(const KeptSets& sets, const KeptChain& chain) {
  for (std::size_t head = 0; head < sets.kept.size(); ++head) {
    const auto& level = chain.level[head];
    const auto covered = std::count_if(level.begin(), level.end(), [](std::uint16_t l) { return l != nowhere; });
    const auto& kept = sets.kept[head];
    const auto common = std::count_if(
        kept.begin(), kept.end(), [&](std::int32_t row) { return level[static_cast<std::size_t>(row)] != nowhere; });
    if (common != covered) return false;
  }
  return true;
}

void append(const KeptSets& sets, KeptChain& chain) {
  const auto member = static_cast<std::uint16_t>(chain.points.size());
  for (std::size_t head = 0; head < sets.kept.size(); ++head) {
    for (const std::int32_t row : sets.kept[head]) {
      std::uint16_t& level = chain.level[head][static_cast<std::size_t>(row)];
      level = std::min(level, member);
    }
  }
  chain.points.push_back(sets.point);
}

}  // namespace

std::vector<KeptChain> build_chains(std::vector<KeptSets> sets, std::int64_t prompt_length, std::size_t longest) {
  std::stable_sort(sets.begin(), sets.end(), [](const KeptSets& a, const KeptSets& b) { return total(a) < total(b); });
  std::vector<KeptChain> chains;
  for (const KeptSets& next : sets) {
    auto chain = std::find_if(chains.begin(), chains.end(), [&](const KeptChain& candidate) {
      return candidate.points.size() < longest && contains(next, candidate);
    });
    if (chain == chains.end()) {
      chains.emplace_back();
      chain = chains.end() - 1;
      chain->level.assign(next.kept.size(),
                          std::vector<std::uint16_t>(static_cast<std::size_t>(prompt_length), nowhere));
    }
    append(next, *chain);
  }
  for (KeptChain& chain : chains) {
    for (auto& head : chain.level) {
      std::replace(head.begin(), head.end(), nowhere, static_cast<std::uint16_t>(chain.points.size()));
    }
  }
  return chains;
}

}  // namespace evictsim::sim

#include "policies/seats.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

namespace evictsim::policies {
namespace {

bool wins(const Competitor& a, const Competitor& b) {
  if (a.is_protected != b.is_protected) return a.is_protected;
  if (a.score != b.score) return a.score > b.score;
  return std::tie(a.head, a.rank) < std::tie(b.head, b.rank);
}

/// Share of a head's score that its best `count` unprotected entries hold.
float top_share(const LayerScores& scores, int head, const std::vector<std::int32_t>& ranking, Index count) {
  double top = 0;
  double total = 0;
  const Index first = scores.protected_count(head);
  for (Index rank = first; rank < std::ssize(ranking); ++rank) {
    const double score = scores.of(head)[static_cast<std::size_t>(ranking[static_cast<std::size_t>(rank)])];
    if (rank < first + count) top += score;
    total += score;
  }
  return total != 0 ? static_cast<float>(top / total) : 1.0F;
}

}  // namespace

void seat(std::vector<Competitor>& competitors, Index seats, std::span<Index> counts) {
  seats = std::clamp<Index>(seats, 0, std::ssize(competitors));
  if (seats < std::ssize(competitors)) {
    std::nth_element(competitors.begin(), competitors.begin() + seats, competitors.end(), wins);
  }
  for (Index i = 0; i < seats; ++i) {
    ++counts[static_cast<std::size_t>(competitors[static_cast<std::size_t>(i)].head)];
  }
}

void share_with_safeguard(const LayerScores& scores, double alpha, std::span<Index> counts) {
  const Index seats = std::accumulate(counts.begin(), counts.end(), Index{0});
  std::vector<Competitor> competitors;
  Index taken = 0;
  for (int head = 0; head < scores.heads(); ++head) {
    const std::vector<std::int32_t> ranking = rank_entries(scores, head);
    Index& count = counts[static_cast<std::size_t>(head)];
    auto safe = static_cast<Index>(static_cast<double>(count) * alpha);
    if (alpha > 0) safe = std::max<Index>(safe, 1);
    count = std::min<Index>(safe, std::ssize(ranking));
    taken += count;
    for (Index rank = count; rank < std::ssize(ranking); ++rank) {
      const std::int32_t place = ranking[static_cast<std::size_t>(rank)];
      competitors.push_back(
          {scores.is_protected(head, place), scores.of(head)[static_cast<std::size_t>(place)], head, rank});
    }
  }
  seat(competitors, seats - taken, counts);
}

void share_unprotected(const LayerScores& scores, std::span<const Index> base, std::span<const Index> floor,
                       double alpha, bool normalize, std::span<Index> counts) {
  std::vector<Index> won(counts.size(), 0);
  std::vector<Competitor> competitors;
  for (int head = 0; head < scores.heads(); ++head) {
    const std::vector<std::int32_t> ranking = rank_entries(scores, head);
    const float weight = normalize ? top_share(scores, head, ranking, base[static_cast<std::size_t>(head)]) : 1.0F;
    for (Index rank = scores.protected_count(head); rank < std::ssize(ranking) - scores.dropped_count(head); ++rank) {
      const auto place = static_cast<std::size_t>(ranking[static_cast<std::size_t>(rank)]);
      competitors.push_back({false, scores.of(head)[place] * weight, head, rank});
    }
  }
  seat(competitors, std::accumulate(base.begin(), base.end(), Index{0}), won);
  for (int head = 0; head < scores.heads(); ++head) {
    const auto place = static_cast<std::size_t>(head);
    // Single precision and half to even, as torch.round there.
    const float mixed =
        static_cast<float>(won[place]) * static_cast<float>(1.0 - alpha) + static_cast<float>(floor[place]);
    counts[place] = std::min(static_cast<Index>(std::nearbyint(mixed)), unprotected_count(scores, head)) +
                    scores.protected_count(head);
  }
}

std::vector<Index> round_by_remainder(std::span<const double> ideal, Index total) {
  std::vector<Index> rounded;
  for (const double value : ideal) rounded.push_back(static_cast<Index>(value));
  std::vector<std::size_t> by_remainder(ideal.size());
  std::iota(by_remainder.begin(), by_remainder.end(), std::size_t{0});
  std::stable_sort(by_remainder.begin(), by_remainder.end(), [&](std::size_t a, std::size_t b) {
    return ideal[a] - std::floor(ideal[a]) > ideal[b] - std::floor(ideal[b]);
  });
  Index left = total - std::accumulate(rounded.begin(), rounded.end(), Index{0});
  for (std::size_t i = 0; i < by_remainder.size() && left > 0; ++i, --left) ++rounded[by_remainder[i]];
  return rounded;
}

Index unprotected_count(const LayerScores& scores, int head) {
  return std::ssize(scores.of(head)) - scores.protected_count(head) - scores.dropped_count(head);
}

}  // namespace evictsim::policies

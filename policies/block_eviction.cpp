#include "policies/block_eviction.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace evictsim::policies {
namespace {

using models::Index;

/// Places 0 .. count - 1, sorted by `before`, equals in order of place.
template <typename Before>
std::vector<Index> ordered(Index count, Before before) {
  std::vector<Index> places(static_cast<std::size_t>(count));
  std::iota(places.begin(), places.end(), Index{0});
  std::stable_sort(places.begin(), places.end(), before);
  return places;
}

double at(std::span<const double> values, Index place) { return values[static_cast<std::size_t>(place)]; }

/// 1 for the better half of the tokens.
std::vector<int> indicators(std::span<const double> token_scores) {
  const auto by_score =
      ordered(std::ssize(token_scores), [&](Index a, Index b) { return at(token_scores, a) > at(token_scores, b); });
  std::vector<int> bits(token_scores.size(), 0);
  for (std::size_t i = 0; i < token_scores.size() / 2; ++i) bits[static_cast<std::size_t>(by_score[i])] = 1;
  return bits;
}

/// Rows of the cosine matrix held at once.
constexpr Index tile_rows = 64;

/// Adds to every block how much its keys resemble those of `blocks`.
void add_closeness(const models::MatrixView& keys, const std::vector<Index>& blocks, std::vector<double>& closeness) {
  const Index block = keys.rows() / std::ssize(closeness);
  Eigen::VectorXd counts = Eigen::VectorXd::Zero(keys.rows());
  for (const Index other : blocks) counts.segment(other * block, block).setOnes();
  models::MatrixDouble unit = keys.cast<double>();
  for (Index i = 0; i < unit.rows(); ++i) {
    unit.row(i) /= std::sqrt(unit.row(i).squaredNorm() + static_cast<double>(std::numeric_limits<float>::epsilon()));
  }
  for (Index first = 0; first < unit.rows(); first += tile_rows) {
    models::MatrixDouble cosine = unit.middleRows(first, std::min(tile_rows, unit.rows() - first)) * unit.transpose();
    for (Index i = 0; i < cosine.rows(); ++i) {
      cosine(i, first + i) = 0;
      const double mean = cosine.row(i).mean();
      double total = 0;
      for (Index j = 0; j < cosine.cols(); ++j) {
        if (cosine(i, j) >= mean) total += counts(j) * cosine(i, j);
      }
      closeness[static_cast<std::size_t>((first + i) / block)] += total;
    }
  }
}

}  // namespace

std::vector<Index> weakest_blocks(std::span<const double> block_scores, Index count) {
  std::vector<Index> blocks =
      ordered(std::ssize(block_scores), [&](Index a, Index b) { return at(block_scores, a) < at(block_scores, b); });
  blocks.resize(static_cast<std::size_t>(std::clamp<Index>(count, 0, std::ssize(blocks))));
  std::sort(blocks.begin(), blocks.end());
  return blocks;
}

std::vector<Index> crush_representatives(std::span<const double> token_scores, std::span<const int> anchor,
                                         const std::vector<Index>& evicted, Index count) {
  const std::vector<int> bits = indicators(token_scores);
  std::vector<Index> distance;
  for (const Index block : evicted) {
    Index differing = 0;
    for (std::size_t i = 0; i < anchor.size(); ++i) {
      differing += bits[static_cast<std::size_t>(block) * anchor.size() + i] != anchor[i] ? 1 : 0;
    }
    distance.push_back(differing);
  }
  const std::vector<Index> sorted = ordered(std::ssize(evicted), [&](Index a, Index b) {
    return distance[static_cast<std::size_t>(a)] < distance[static_cast<std::size_t>(b)];
  });
  const Index retained = std::min(count, std::ssize(evicted));
  std::vector<Index> blocks;
  for (Index i = 0; i < retained; ++i) {
    const Index place = sorted[static_cast<std::size_t>(i * (std::ssize(evicted) / retained))];
    blocks.push_back(evicted[static_cast<std::size_t>(place)]);
  }
  std::sort(blocks.begin(), blocks.end());
  return blocks;
}

std::vector<int> mean_pattern(std::span<const double> token_scores, Index block) {
  const std::vector<int> bits = indicators(token_scores);
  const Index blocks = std::ssize(bits) / block;
  std::vector<int> pattern;
  for (Index i = 0; i < block; ++i) {
    Index sum = 0;
    for (Index b = 0; b < blocks; ++b) sum += bits[static_cast<std::size_t>(b * block + i)];
    pattern.push_back(2 * sum > blocks ? 1 : 0);
  }
  return pattern;
}

std::vector<Index> adaptive_blocks_to_evict(std::span<const double> block_scores,
                                            std::span<const models::MatrixView> keys_by_head, Index keep, double mass) {
  const std::vector<Index> by_score =
      ordered(std::ssize(block_scores), [&](Index a, Index b) { return at(block_scores, a) > at(block_scores, b); });
  const double wanted = mass * std::accumulate(block_scores.begin(), block_scores.end(), 0.0);
  double sum = 0;
  Index kept = 0;
  while (sum < wanted && kept < std::min(keep, std::ssize(by_score))) {
    sum += at(block_scores, by_score[static_cast<std::size_t>(kept++)]);
  }
  std::vector<Index> others(by_score.begin() + kept, by_score.end());
  std::sort(others.begin(), others.end());
  if (kept == keep) return others;

  std::vector<double> closeness(block_scores.size(), 0.0);
  for (const models::MatrixView& keys : keys_by_head) add_closeness(keys, others, closeness);
  std::stable_sort(others.begin(), others.end(), [&](Index a, Index b) { return at(closeness, a) < at(closeness, b); });
  others.erase(others.begin(), others.begin() + std::min(keep - kept, std::ssize(others)));
  std::sort(others.begin(), others.end());
  return others;
}

}  // namespace evictsim::policies

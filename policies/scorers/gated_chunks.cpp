#include <algorithm>
#include <cmath>
#include <numeric>

#include "policies/chosen_set.h"
#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

constexpr double epsilon = 1e-8;

/// Consecutive tokens of the cache, places [first, last).
struct Chunk {
  Index first = 0;
  Index last = 0;
  double score = 0;    ///< mean of its tokens' scores
  double entropy = 0;  ///< of these as shares, 1 = even
};

/// The lower of the two middle values of an even count, as torch's median.
double lower_median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double normalised_entropy(std::span<const double> scores) {
  if (scores.size() < 2) return 0;
  const double lowest = std::min(0.0, *std::min_element(scores.begin(), scores.end()));
  double total = 0;
  for (const double score : scores) total += score - lowest;
  double entropy = 0;
  for (const double score : scores) {
    const double share = (score - lowest) / (total + epsilon);
    entropy -= share * std::log(share + epsilon);
  }
  return std::clamp(entropy / std::log(static_cast<double>(scores.size())), 0.0, 1.0);
}

/// Takes chunks by score; important ones whose score sits in few tokens keep only their best, and the room goes to
/// further chunks. Heads keep the same tokens, and scores stay those of the scorer inside.
class GatedChunks : public OuterScorer {
 public:
  GatedChunks(const Parameters& parameters, std::unique_ptr<Scorer> inner)
      : OuterScorer(std::move(inner)), length_(parameters.integer("chunk")), spiky_(parameters.integer("spiky")) {}

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    inner().score(cache, budget, scores);
    Index count = 0;
    for (int head = 0; head < cache.heads(); ++head) count = std::max(count, std::ssize(cache.entries(head)));
    std::vector<double> tokens(static_cast<std::size_t>(count), 0.0);
    for (int head = 0; head < cache.heads(); ++head) {
      for (std::size_t i = 0; i < scores.of(head).size(); ++i) tokens[i] += scores.of(head)[i];
    }
    const std::vector<std::int32_t> kept = choose(tokens, budget_of(share_of(budget), count).entries);
    for (int head = 0; head < cache.heads(); ++head) drop_all_but(scores, head, kept);
  }

  [[nodiscard]] bool depends_on_budget() const override { return true; }

 private:
  [[nodiscard]] std::vector<Chunk> chunks_of(std::span<const double> tokens) const {
    std::vector<Chunk> chunks;
    for (Index first = 0; first < std::ssize(tokens); first += length_) {
      const Index last = std::min(first + length_, std::ssize(tokens));
      const auto own = tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
      const double sum = std::accumulate(own.begin(), own.end(), 0.0);
      chunks.push_back({first, last, sum / static_cast<double>(own.size()), normalised_entropy(own)});
    }
    return chunks;
  }

  /// Places of the tokens that stay, ascending.
  [[nodiscard]] std::vector<std::int32_t> choose(std::span<const double> tokens, Index room) const {
    std::vector<Chunk> chunks = chunks_of(tokens);
    std::vector<double> all_scores, all_entropies;
    for (const Chunk& chunk : chunks) {
      all_scores.push_back(chunk.score);
      all_entropies.push_back(chunk.entropy);
    }
    if (chunks.empty()) return {};
    const double high = lower_median(std::move(all_scores));
    const double even = lower_median(std::move(all_entropies));
    std::stable_sort(chunks.begin(), chunks.end(), [](const Chunk& a, const Chunk& b) { return a.score > b.score; });
    std::vector<bool> keep(tokens.size(), false);
    for (const Chunk& chunk : chunks) {
      const bool is_spiky = chunk.score >= high && chunk.entropy < even;
      const Index seats = std::min({chunk.last - chunk.first, room, is_spiky ? spiky_ : room});
      take_best(tokens, chunk.first, chunk.last, seats, keep);
      room -= seats;
    }
    take_best(tokens, 0, std::ssize(tokens), room, keep);
    std::vector<std::int32_t> places;
    for (std::size_t i = 0; i < keep.size(); ++i) {
      if (keep[i]) places.push_back(static_cast<std::int32_t>(i));
    }
    return places;
  }

  /// Keeps the best `seats` tokens of [first, last) that are not kept yet, of equal ones the older.
  static void take_best(std::span<const double> tokens, Index first, Index last, Index seats, std::vector<bool>& keep) {
    std::vector<std::size_t> left;
    for (Index i = first; i < last; ++i) {
      if (!keep[static_cast<std::size_t>(i)]) left.push_back(static_cast<std::size_t>(i));
    }
    std::stable_sort(left.begin(), left.end(), [&](std::size_t a, std::size_t b) { return tokens[a] > tokens[b]; });
    left.resize(std::min(left.size(), static_cast<std::size_t>(std::max<Index>(seats, 0))));
    for (const std::size_t i : left) keep[i] = true;
  }

  Index length_;
  Index spiky_;
};

const Registration registration(
    {.name = "gated_chunks",
     .sentence = "Keeps chunks by mean score, of important ones with few high scores only the best tokens.",
     .citation = "kvpress 0.5.5 EntropyGatedChunkKVPress, after ChunkKV, arXiv 2502.00299",
     .parameters = gated_chunk_parameters(),
     .make = MakeOuterScorer([](const Parameters& parameters, std::unique_ptr<Scorer> inner) {
       return std::make_unique<GatedChunks>(parameters, std::move(inner));
     })});

}  // namespace
}  // namespace evictsim::policies

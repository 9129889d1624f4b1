#include <algorithm>
#include <map>
#include <numeric>

#include "policies/chosen_set.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// Consecutive tokens that stay or go together, in all heads.
struct Chunk {
  double sum = 0;  ///< over heads and tokens
  Index tokens = 0;
  bool raised = true;  ///< every entry is
  [[nodiscard]] double score() const { return sum / static_cast<double>(tokens); }
};

/// Scores stay those of the scorer inside; whole chunks are kept by their mean score, and the rest is dropped.
class WholeChunks : public OuterScorer {
 public:
  WholeChunks(const Parameters& parameters, std::unique_ptr<Scorer> inner)
      : OuterScorer(std::move(inner)), length_(parameters.integer("chunk")) {}

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    inner().score(cache, budget, scores);
    const std::vector<std::int32_t> rows = rows_of(cache);
    if (std::ssize(rows) < length_) {
      for (int head = 0; head < cache.heads(); ++head) {
        drop_all_but(scores, head, select_best(scores, head, budget.entries));
      }
      return;
    }
    std::vector<Chunk> chunks(static_cast<std::size_t>((std::ssize(rows) + length_ - 1) / length_));
    for (std::size_t i = 0; i < rows.size(); ++i) ++chunks[i / static_cast<std::size_t>(length_)].tokens;
    const auto chunk_of = [&](std::int32_t row) {
      const auto place = std::lower_bound(rows.begin(), rows.end(), row) - rows.begin();
      return static_cast<std::size_t>(place / length_);
    };
    for_each_entry(cache, [&](int head, std::size_t place, std::int32_t row) {
      Chunk& chunk = chunks[chunk_of(row)];
      chunk.sum += scores.of(head)[place];
      chunk.raised = chunk.raised && scores.is_raised(head, static_cast<Index>(place));
    });
    const std::vector<bool> kept = best(chunks, budget_of(share_of(budget), std::ssize(chunks)).entries);
    for_each_entry(cache, [&](int head, std::size_t place, std::int32_t row) {
      if (!kept[chunk_of(row)]) scores.drop(head, static_cast<Index>(place));
    });
  }

  [[nodiscard]] bool depends_on_budget() const override { return true; }

 private:
  /// Rows resident in any head, ascending.
  static std::vector<std::int32_t> rows_of(const CacheView& cache) {
    std::vector<std::int32_t> rows;
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      rows.insert(rows.end(), entries.begin(), entries.end());
    }
    std::sort(rows.begin(), rows.end());
    rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
    return rows;
  }

  template <typename Visit>
  static void for_each_entry(const CacheView& cache, const Visit& visit) {
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      for (std::size_t place = 0; place < entries.size(); ++place) visit(head, place, entries[place]);
    }
  }

  /// Of equal chunks the older stays, of raised ones the newer, as with entries.
  static std::vector<bool> best(const std::vector<Chunk>& chunks, Index count) {
    std::vector<std::size_t> order(chunks.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      if (chunks[a].score() != chunks[b].score()) return chunks[a].score() > chunks[b].score();
      if (chunks[a].raised != chunks[b].raised) return chunks[a].raised;
      return chunks[a].raised ? a > b : a < b;
    });
    std::vector<bool> kept(chunks.size(), false);
    for (std::size_t i = 0; i < std::min(order.size(), static_cast<std::size_t>(count)); ++i) kept[order[i]] = true;
    return kept;
  }

  Index length_;
};

const Registration registration(
    {.name = "whole_chunks",
     .sentence = "Keeps whole chunks of tokens by their mean score over all heads, and drops the others.",
     .citation = "ChunkKV, arXiv 2502.00299; kvpress 0.5.5 ChunkKVPress",
     .parameters = {integer_parameter("chunk", "20", 1, 1e9, "tokens of a chunk")},
     .make = MakeOuterScorer([](const Parameters& parameters, std::unique_ptr<Scorer> inner) {
       return std::make_unique<WholeChunks>(parameters, std::move(inner));
     })});

}  // namespace
}  // namespace evictsim::policies

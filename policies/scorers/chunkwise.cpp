#include <algorithm>

#include "policies/chosen_set.h"
#include "policies/registry.h"
#include "policies/subset_view.h"

namespace evictsim::policies {
namespace {

/// Scores every chunk of tokens as a cache of its own, and drops what exceeds the chunk's share.
class Chunkwise : public OuterScorer {
 public:
  Chunkwise(const Parameters& parameters, std::unique_ptr<Scorer> inner)
      : OuterScorer(std::move(inner)), length_(parameters.integer("length")) {}

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    const double share = share_of(budget);
    for (Index first = 0; first < cache.seen(); first += length_) {
      const SubsetView chunk(cache, first, std::min(first + length_, cache.seen()));
      Index longest = 0;
      for (int head = 0; head < cache.heads(); ++head) longest = std::max(longest, std::ssize(chunk.entries(head)));
      if (longest == 0) continue;
      LayerScores part(chunk);
      inner().score(chunk, budget_of(share, longest), part);
      for (int head = 0; head < cache.heads(); ++head) keep_best(chunk, part, share, head, scores);
    }
  }

  /// The scorer inside sees one chunk at a time, and no chunk while a row is decoded.
  void begin_decode(const CacheView&) override {}
  void observe(const StepView&) override {}
  [[nodiscard]] bool depends_on_budget() const override { return true; }
  [[nodiscard]] Needs needs() const override { return needs_of_parts(inner().needs()); }

 private:
  static void keep_best(const SubsetView& chunk, const LayerScores& part, double share, int head, LayerScores& scores) {
    const Index count = std::ssize(part.of(head));
    if (count == 0) return;
    const std::vector<std::int32_t> best = select_best(part, head, budget_of(share, count).entries);
    for (Index i = 0; i < count; ++i) {
      const std::int32_t place = chunk.places(head)[static_cast<std::size_t>(i)];
      scores.of(head)[static_cast<std::size_t>(place)] = part.of(head)[static_cast<std::size_t>(i)];
      if (!std::binary_search(best.begin(), best.end(), static_cast<std::int32_t>(i))) scores.drop(head, place);
    }
  }

  Index length_;
};

const Registration registration(
    {.name = "chunkwise",
     .sentence = "Scores and cuts every chunk of tokens by itself, as if it were the whole cache.",
     .citation = "kvpress 0.5.5 ChunkPress, after FINCH, TACL 2024 (10.1162/tacl_a_00716)",
     .parameters = {integer_parameter("length", "1024", 1, 1e9, "tokens of a chunk")},
     .make = MakeOuterScorer([](const Parameters& parameters, std::unique_ptr<Scorer> inner) {
       return std::make_unique<Chunkwise>(parameters, std::move(inner));
     })});

}  // namespace
}  // namespace evictsim::policies

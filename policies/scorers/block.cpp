#include <algorithm>
#include <numeric>

#include "policies/chosen_set.h"
#include "policies/press.h"
#include "policies/registry.h"
#include "policies/subset_view.h"

namespace evictsim::policies {
namespace {

/// Plays a prompt processed block by block: what was kept so far competes with the next block, and the best stay.
/// Scores are those of the last round; what lost before is dropped.
class Block : public OuterScorer {
 public:
  Block(const Parameters& parameters, std::unique_ptr<Scorer> inner)
      : OuterScorer(std::move(inner)), size_(parameters.integer("size")) {}

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    const auto limit = static_cast<Index>(budget.entries);
    std::vector<std::vector<std::int32_t>> kept(static_cast<std::size_t>(cache.heads()));
    Index longest = 0;
    for (int head = 0; head < cache.heads(); ++head) {
      const Index count = std::ssize(cache.entries(head));
      longest = std::max(longest, count);
      std::vector<std::int32_t>& places = kept[static_cast<std::size_t>(head)];
      places.resize(static_cast<std::size_t>(std::min(limit, count)));
      std::iota(places.begin(), places.end(), 0);
    }
    if (limit >= longest) {
      inner().score(cache, budget, scores);
      return;
    }
    for (Index first = limit; first < longest; first += size_) {
      play_round(cache, share_of(budget), first, first + size_ >= longest, kept, scores);
    }
    for (int head = 0; head < cache.heads(); ++head) drop_all_but(scores, head, kept[static_cast<std::size_t>(head)]);
  }

  /// The scorer inside sees blocks, and no row while it is decoded.
  void begin_decode(const CacheView&) override {}
  void observe(const StepView&) override {}
  [[nodiscard]] bool depends_on_budget() const override { return true; }
  [[nodiscard]] Needs needs() const override { return needs_of_parts(inner().needs()); }

 private:
  /// Adds the block of places from `first` on to what was kept, and keeps the best of both.
  void play_round(const CacheView& cache, double share, Index first, bool last_round,
                  std::vector<std::vector<std::int32_t>>& kept, LayerScores& scores) {
    const std::vector<std::vector<std::int32_t>> before = kept;
    Index last_row = 0;
    Index longest = 0;
    for (int head = 0; head < cache.heads(); ++head) {
      std::vector<std::int32_t>& places = kept[static_cast<std::size_t>(head)];
      const Index last = std::min(first + size_, std::ssize(cache.entries(head)));
      for (Index place = first; place < last; ++place) places.push_back(static_cast<std::int32_t>(place));
      longest = std::max(longest, std::ssize(places));
      if (!places.empty()) {
        last_row = std::max<Index>(last_row, cache.entries(head)[static_cast<std::size_t>(places.back())] + 1);
      }
    }
    const SubsetView view(cache, 0, last_round ? cache.seen() : last_row, kept);
    LayerScores round(view);
    inner().score(view, budget_of(share, longest), round);
    for (int head = 0; head < cache.heads(); ++head) {
      std::vector<std::int32_t>& places = kept[static_cast<std::size_t>(head)];
      const auto limit = before[static_cast<std::size_t>(head)].size();
      std::vector<std::int32_t> best;
      for (const std::int32_t chosen : select_best(round, head, static_cast<Index>(limit))) {
        const std::int32_t place = places[static_cast<std::size_t>(chosen)];
        best.push_back(place);
        scores.of(head)[static_cast<std::size_t>(place)] = round.of(head)[static_cast<std::size_t>(chosen)];
      }
      places = std::move(best);
    }
  }

  Index size_;
};

const Registration registration(
    {.name = "block",
     .sentence = "Cuts after every block of tokens, as in blockwise prompt processing, with another policy's scores.",
     .citation = "KeyDiff, arXiv 2504.15364; kvpress 0.5.5 BlockPress",
     .parameters = {integer_parameter("size", "128", 1, 1e9, "tokens of a block")},
     .make = MakeOuterScorer([](const Parameters& parameters, std::unique_ptr<Scorer> inner) {
       return std::make_unique<Block>(parameters, std::move(inner));
     }),
     .is_policy = true,
     .default_policy = "keydiff()"});

const PressRegistration press(
    {.name = "BlockPress",
     .part = "block",
     .arguments = {{"press", PressValue::press, nullptr}, {"block_size", PressValue::integer, "128", "size"}},
     .map = [](const PressArguments& given) -> PolicyText {
       return {.name = "block",
               .arguments = {scores_of_press(given, "BlockPress").text(), "size=" + given["block_size"]},
               .scores = false};
     }});

}  // namespace
}  // namespace evictsim::policies

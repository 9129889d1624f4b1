#include <algorithm>

#include "policies/registry.h"
#include "policies/scoring.h"
#include "policies/shared_parameters.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

/// Drops what lies between the first and the newest tokens in layers whose last tokens hardly look there.
class LazyLayer : public Scorer {
 public:
  explicit LazyLayer(const Parameters& parameters)
      : threshold_(parameters.real("threshold")),
        last_(parameters.integer("last")),
        recent_(parameters.integer("recent")),
        initial_(parameters.integer("initial")) {
    if (recent_ <= last_) {
      throw Error(ErrorCode::invalid_argument, "must exceed last, whose tokens are among the recent ones",
                  {.parameter = "simlayerkv: recent", .value = std::to_string(recent_)});
    }
  }

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    Index shortest = cache.seen();
    for (int head = 0; head < cache.heads(); ++head) shortest = std::min(shortest, std::ssize(cache.entries(head)));
    if (threshold_ >= 1 || shortest <= initial_ + recent_ + last_) return;
    if (mass_at_ends(cache) <= threshold_) return;
    for (int head = 0; head < cache.heads(); ++head) {
      const Index count = std::ssize(cache.entries(head));
      for (Index place = initial_; place < count - (recent_ - last_); ++place) scores.drop(head, place);
    }
  }
  [[nodiscard]] Needs needs() const override { return {.window_queries = last_}; }

 private:
  /// Mean over query heads and the last tokens of their attention to the initial and recent entries, the last tokens
  /// themselves left out.
  [[nodiscard]] double mass_at_ends(const CacheView& cache) const {
    double mass = 0;
    for (int head = 0; head < cache.heads(); ++head) {
      const Index candidates = std::ssize(cache.entries(head)) - last_;
      const QueryHeads group = cache.query_heads(head);
      for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
        const models::MatrixView attention = cache.window_attention(query_head, last_);
        mass += attention.topRows(initial_).cast<double>().sum();
        mass += attention.middleRows(candidates - recent_, recent_).cast<double>().sum();
      }
    }
    return mass / static_cast<double>(last_ * cache.geometry().num_query_heads);
  }

  double threshold_;
  Index last_;
  Index recent_;
  Index initial_;
};

const Registration registration(
    {.name = "lazy_layer",
     .sentence = "Drops all but the first and newest tokens in layers whose last tokens attend to little else.",
     .citation = "SimLayerKV, arXiv 2410.13846; kvpress 0.5.5 SimLayerKVPress",
     .parameters = lazy_layer_parameters(),
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<LazyLayer>(parameters); })});

}  // namespace
}  // namespace evictsim::policies

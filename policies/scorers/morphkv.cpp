#include <algorithm>

#include "policies/registry.h"
#include "policies/scoring.h"
#include "policies/window_logits.h"

namespace evictsim::policies {
namespace {

class MorphKv : public Scorer {
 public:
  explicit MorphKv(const Parameters& parameters)
      : window_(parameters.integer("window")),
        fuse_by_max_(parameters.choice("fusion") == "max"),
        group_(parameters.choice("group")) {}

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    const Index window = std::min(window_, cache.seen());
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      const Index candidates = count_before(entries, cache.seen() - window);
      scores.protect(head, candidates, std::ssize(entries));
      if (candidates == 0) continue;
      const models::MatrixDouble attention = softmax_over(group_logits(cache, head, window), 0, candidates);
      for (Index place = 0; place < candidates; ++place) {
        const double fused = fuse_by_max_ ? attention.row(place).maxCoeff() : attention.row(place).sum();
        scores.of(head)[static_cast<std::size_t>(place)] = static_cast<float>(fused);
      }
    }
  }

  [[nodiscard]] Needs needs() const override { return {.window_queries = window_}; }

 private:
  [[nodiscard]] models::MatrixDouble group_logits(const CacheView& cache, int head, Index window) const {
    const QueryHeads queries = cache.query_heads(head);
    models::MatrixDouble logits = window_logits(cache, head, queries.first, window);
    for (int query_head = queries.first + 1; query_head < queries.first + queries.count; ++query_head) {
      const models::MatrixDouble own = window_logits(cache, head, query_head, window);
      logits = group_ == "max" ? models::MatrixDouble(logits.cwiseMax(own)) : models::MatrixDouble(logits + own);
    }
    if (group_ == "mean") logits /= queries.count;
    return logits;
  }

  Index window_;
  bool fuse_by_max_;
  std::string group_;
};

const Registration registration(
    {.name = "morphkv",
     .sentence = "Keeps the newest tokens and, at every step, what they attend to among the older ones.",
     .citation = "MorphKV, arXiv 2503.00979; ghadiaravi13/MorphKV",
     .parameters = {integer_parameter("window", "32", 1, 65536, "newest tokens, which are kept and choose"),
                    choice_parameter("fusion", {"max", "sum"}, "over the window's tokens"),
                    choice_parameter("group", {"sum", "max", "mean"},
                                     "over the logits of a group's query heads, before the softmax")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<MorphKv>(parameters); }),
     .is_policy = true,
     .default_schedule = "every()"});

}  // namespace
}  // namespace evictsim::policies

#include <algorithm>
#include <cmath>
#include <numeric>

#include "policies/registry.h"
#include "policies/scoring.h"
#include "policies/shared_parameters.h"
#include "policies/window_logits.h"

namespace evictsim::policies {
namespace {

/// Rows of the cosine matrix held at once.
constexpr Index tile_rows = 64;

/// Softmax over all keys of how much each resembles the others on average. Of every key's similarities the one to the
/// last key above `threshold` does not count (where none is above, that to the first), so that the newest of a set of
/// near copies survives.
std::vector<double> redundancy(const models::MatrixView& keys, std::span<const std::int32_t> order, double threshold) {
  const Index count = std::ssize(order);
  models::MatrixDouble unit(count, keys.cols());
  for (Index i = 0; i < count; ++i) {
    unit.row(i) = keys.row(order[static_cast<std::size_t>(i)]).cast<double>();
    unit.row(i) /= unit.row(i).norm() + 1e-8;
  }
  Eigen::RowVectorXd similarity = Eigen::RowVectorXd::Zero(count);
  for (Index first = 0; first < count; first += tile_rows) {
    models::MatrixDouble cosine = unit.middleRows(first, std::min(tile_rows, count - first)) * unit.transpose();
    for (Index i = 0; i < cosine.rows(); ++i) {
      cosine(i, first + i) = 0;
      Index last = count - 1;
      while (last > 0 && cosine(i, last) <= threshold) --last;
      cosine(i, last) = 0;
      similarity += cosine.row(i);
    }
  }
  similarity /= static_cast<double>(count);
  similarity = (similarity.array() - similarity.maxCoeff()).exp();
  similarity /= similarity.sum();
  return {similarity.begin(), similarity.end()};
}

class AttentionAndRedundancy : public Scorer {
 public:
  explicit AttentionAndRedundancy(const Parameters& parameters)
      : window_(parameters.integer("window")),
        kernel_(parameters.integer("kernel")),
        lambda_(parameters.real("lambda")),
        threshold_(parameters.real("threshold")),
        order_by_score_(parameters.choice("order") == "score") {}

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    ranked_.resize(static_cast<std::size_t>(cache.heads()));
    const Index window = std::min(window_, cache.seen());
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      const Index candidates = count_before(entries, cache.seen() - window);
      scores.protect(head, candidates, std::ssize(entries));
      if (candidates == 0) continue;
      const std::vector<std::int32_t> order = cache_order(head, entries);
      const std::vector<double> row = score_head(cache, head, window, std::span(order), candidates);
      const std::span<float> out = scores.of(head);
      for (std::size_t i = 0; i < row.size(); ++i) {
        out[static_cast<std::size_t>(order[i])] = static_cast<float>(row[i]);
      }
      if (std::ssize(entries) >= budget.entries) rank(head, entries, order, candidates, out);
    }
  }

  [[nodiscard]] Needs needs() const override { return {.window_queries = window_}; }

 private:
  /// Places of the head's entries in the order of the cache: what survived the last cut as that cut left it, then what
  /// came since.
  [[nodiscard]] std::vector<std::int32_t> cache_order(int head, std::span<const std::int32_t> entries) const {
    std::vector<std::int32_t> places(entries.size());
    std::iota(places.begin(), places.end(), 0);
    const std::vector<std::int32_t>& ranked = ranked_[static_cast<std::size_t>(head)];
    if (!order_by_score_ || ranked.empty()) return places;
    std::vector<std::int32_t> order;
    for (const std::int32_t row : ranked) {
      const auto found = std::lower_bound(entries.begin(), entries.end(), row);
      if (found != entries.end() && *found == row) order.push_back(static_cast<std::int32_t>(found - entries.begin()));
    }
    // Nothing ranked is newer than the window of the last cut, so what is not ranked follows it.
    order.insert(order.end(), places.begin() + std::ssize(order), places.end());
    return order;
  }

  /// Remembers the order in which a cut leaves the head's candidates, best first, and its window.
  void rank(int head, std::span<const std::int32_t> entries, std::span<const std::int32_t> order, Index candidates,
            std::span<const float> scores) {
    std::vector<std::int32_t> places(order.begin(), order.end());
    std::stable_sort(places.begin(), places.begin() + candidates, [scores](std::int32_t a, std::int32_t b) {
      return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
    });
    std::vector<std::int32_t>& ranked = ranked_[static_cast<std::size_t>(head)];
    ranked.clear();
    for (const std::int32_t place : places) ranked.push_back(entries[static_cast<std::size_t>(place)]);
  }

  /// [candidates] in the order of the cache, whose first `candidates` these are.
  [[nodiscard]] std::vector<double> score_head(const CacheView& cache, int head, Index window,
                                               std::span<const std::int32_t> order, Index candidates) const {
    const QueryHeads queries = cache.query_heads(head);
    models::MatrixDouble logits = window_logits(cache, head, queries.first, window);
    for (int query_head = queries.first + 1; query_head < queries.first + queries.count; ++query_head) {
      logits = logits.cwiseMax(window_logits(cache, head, query_head, window));
    }
    const models::MatrixDouble attention = softmax_over(logits, 0, candidates);
    std::vector<double> importance;
    for (Index i = 0; i < candidates; ++i) {
      importance.push_back(attention.row(order[static_cast<std::size_t>(i)]).mean());
    }
    importance = pool(Pooling::max, importance, kernel_);
    const std::vector<double> similar = redundancy(cache.keys(head), order, threshold_);
    for (std::size_t i = 0; i < importance.size(); ++i) {
      importance[i] = lambda_ * importance[i] - (1 - lambda_) * similar[i];
    }
    return importance;
  }

  Index window_;
  Index kernel_;
  double lambda_;
  double threshold_;
  bool order_by_score_;
  std::vector<std::vector<std::int32_t>> ranked_;  ///< [head] token rows as the last cut ranked them
};

const Registration registration(
    {.name = "attention_and_redundancy",
     .sentence = "Keeps what the newest tokens attend to, less what other keys say as well, and those tokens.",
     .citation = "R-KV, arXiv 2505.24133; Zefan-Cai/R-KV",
     .parameters = redundancy_parameters(),
     .make = MakeScorer([](const Parameters& parameters) {
       return std::make_unique<AttentionAndRedundancy>(parameters);
     }),
     .default_schedule = "every(steps=128,counted=sequence)"});

}  // namespace
}  // namespace evictsim::policies

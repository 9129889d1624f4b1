#include <algorithm>
#include <vector>

#include "models/attention.h"
#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

/// The most that one of the next queries attends to an entry, times the entry's value behind W_O; the group's mean.
class FutureUtility : public OracleScorer {
 public:
  explicit FutureUtility(const Parameters& parameters) : queries_(parameters.integer("queries")) {}

  void score(const CacheView& cache, const CutBudget&, const FutureView& future, LayerScores& scores) override {
    const auto rows = future.query_rows();
    const Index first = count_before(rows, cache.seen());
    const Index last = std::min<Index>(std::ssize(rows), first + queries_);
    const models::Geometry& geometry = cache.geometry();
    const models::LogitRule rule{geometry.attention_scale, geometry.logit_softcap};
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      const QueryHeads group = cache.query_heads(head);
      std::vector<double> total(entries.size(), 0.0);
      for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
        const std::vector<double> most =
            most_attention(future, query_head, geometry.kv_head_of(query_head), {first, last}, cache.seen(), rule);
        const Eigen::VectorXf sizes =
            (cache.values(head) * cache.output_weights(query_head).transpose()).rowwise().norm();
        for (std::size_t i = 0; i < entries.size(); ++i) {
          total[i] += most[static_cast<std::size_t>(entries[i])] * static_cast<double>(sizes[static_cast<Index>(i)]);
        }
      }
      for (std::size_t i = 0; i < entries.size(); ++i) {
        scores.of(head)[i] = static_cast<float>(total[i] / group.count);
      }
    }
  }

  [[nodiscard]] Needs needs() const override { return {.output_weights = true}; }

 private:
  /// Over queries [first, last) of the whole sequence, with everything before each of them resident: [seen].
  static std::vector<double> most_attention(const FutureView& future, int query_head, int kv_head,
                                            models::EntryRange queries, Index seen, const models::LogitRule& rule) {
    std::vector<double> most(static_cast<std::size_t>(seen), 0.0);
    const models::MatrixView keys = future.keys(kv_head);
    std::vector<models::EntryRange> visible;
    for (Index i = queries.first; i < queries.last; ++i) {
      visible.push_back({0, future.query_rows()[static_cast<std::size_t>(i)] + 1});
    }
    if (visible.empty()) return most;
    models::AttentionColumns attention;
    models::attend(keys, future.queries(query_head).middleRows(queries.first, queries.last - queries.first), visible,
                   rule, false, attention);
    for (Index entry = 0; entry < seen; ++entry) {
      most[static_cast<std::size_t>(entry)] = static_cast<double>(attention.probability.row(entry).maxCoeff());
    }
    return most;
  }

  Index queries_;
};

const Registration registration({.name = "future_utility",
                                 .sentence = "Keeps what the next queries will draw most output from; sees the future.",
                                 .citation = "the oracle importance of LU-KV, arXiv 2602.08585",
                                 .parameters = {integer_parameter("queries", "128", 1, 1e9, "next queries looked at")},
                                 .make = MakeOracle([](const Parameters& parameters) {
                                   return std::make_unique<FutureUtility>(parameters);
                                 })});

}  // namespace
}  // namespace evictsim::policies

#include <algorithm>

#include "policies/registry.h"
#include "policies/second_pass.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

/// Attention from a second reading of the context, reduced over rows and group, plus the mean over heads.
class SecondPass : public Scorer {
 public:
  explicit SecondPass(const Parameters& parameters)
      : task_(parameters.choice("task")),
        group_(parameters.choice("group")),
        value_norm_(parameters.boolean("value_norm")),
        add_mean_(parameters.boolean("add_mean")) {}

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    std::vector<std::vector<double>> rows;
    std::vector<double> sums(static_cast<std::size_t>(cache.seen()), 0.0);
    for (int head = 0; head < cache.heads(); ++head) {
      rows.push_back(row_of(cache, head));
      const auto entries = cache.entries(head);
      for (std::size_t i = 0; i < entries.size(); ++i) sums[static_cast<std::size_t>(entries[i])] += rows.back()[i];
    }
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      for (std::size_t i = 0; i < entries.size(); ++i) {
        const double mean = add_mean_ ? sums[static_cast<std::size_t>(entries[i])] / cache.heads() : 0.0;
        scores.of(head)[i] = static_cast<float>(rows[static_cast<std::size_t>(head)][i] + mean);
      }
    }
  }
  [[nodiscard]] Needs needs() const override { return {.second_pass = true}; }

 private:
  [[nodiscard]] std::vector<double> row_of(const CacheView& cache, int head) const {
    const QueryHeads group = cache.query_heads(head);
    std::vector<double> row(cache.entries(head).size(), 0.0);
    for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
      const SecondPassAttention received = second_pass_attention(cache, head, query_head, 0);
      const std::vector<double>& reduced = task_ == "max" ? received.highest : received.mean;
      for (std::size_t i = 0; i < row.size(); ++i) {
        row[i] = group_ == "max" ? std::max(row[i], reduced[i]) : row[i] + reduced[i] / group.count;
      }
    }
    if (!value_norm_) return row;
    const models::MatrixView values = cache.values(head);
    for (Index i = 0; i < values.rows(); ++i) {
      row[static_cast<std::size_t>(i)] *= values.row(i).cast<double>().norm();
    }
    return row;
  }

  std::string task_;
  std::string group_;
  bool value_norm_;
  bool add_mean_;
};

const Registration registration(
    {.name = "second_pass_attention",
     .sentence = "Scores by the attention that an entry receives when the context is read a second time.",
     .citation = "KVCompose, arXiv 2509.05165; kvpress 0.5.5 KVComposePress",
     .parameters = second_pass_parameters(),
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<SecondPass>(parameters); })});

}  // namespace
}  // namespace evictsim::policies

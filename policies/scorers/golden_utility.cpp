#include <algorithm>
#include <map>
#include <tuple>

#include "policies/block_walk.h"
#include "policies/exact_attention.h"
#include "policies/learned_parameters.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// Golden eviction: the value of an entry is the most attention that any block of rows to come gives it on average.
class GoldenUtility : public OracleScorer {
 public:
  explicit GoldenUtility(const Parameters& parameters) : every_(parameters.integer("every")) {}

  void score(const CacheView& cache, const CutBudget& budget, const FutureView& future, LayerScores& scores) override {
    const BlockPlan plan = plan_blocks(every_, static_cast<Index>(budget.entries));
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      walk_blocks(cache, head, plan, scores, [&](std::span<const Index> places, Index older, Index seen) {
        std::vector<double> values;
        if (seen >= future.length()) return values;
        const models::MatrixDouble& utility = utility_of(cache, head, plan, future);
        for (Index i = 0; i < older; ++i) {
          const std::int32_t row = entries[static_cast<std::size_t>(places[static_cast<std::size_t>(i)])];
          values.push_back(utility(seen / plan.block - first_block(plan), row));
        }
        return values;
      });
    }
  }

  [[nodiscard]] bool depends_on_budget() const override { return true; }
  [[nodiscard]] bool ranks_decoded() const override { return true; }
  [[nodiscard]] Needs needs() const override { return {.all_queries = true, .decode_attention = true}; }

 private:
  /// No step looks at an earlier block.
  static Index first_block(const BlockPlan& plan) { return plan.kept / plan.block + 1; }

  /// [blocks from the first, entries]: the largest mean attention that this block or a later one gives to an entry. The
  /// last block is filled up with rows that attend nothing.
  const models::MatrixDouble& utility_of(const CacheView& cache, int head, const BlockPlan& plan,
                                         const FutureView& future) {
    const auto found = utilities_.find({head, plan.block, plan.kept});
    if (found != utilities_.end()) return found->second;
    const QueryHeads group = cache.query_heads(head);
    const models::MatrixDouble keys = future.keys(cache.geometry().kv_head_of(group.first)).cast<double>();
    const auto rows = future.query_rows();
    const Index blocks = (future.length() + plan.block - 1) / plan.block;
    models::MatrixDouble utility = models::MatrixDouble::Zero(blocks - first_block(plan), future.length());
    for (Index block = first_block(plan); block < blocks; ++block) {
      const Index begin = place_of(rows, block * plan.block);
      const Index count = place_of(rows, (block + 1) * plan.block) - begin;
      if (count == 0) continue;
      std::vector<Index> visible;
      for (Index r = begin; r < begin + count; ++r) visible.push_back(rows[static_cast<std::size_t>(r)] + 1);
      auto sum = utility.row(block - first_block(plan)).head(visible.back());
      for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
        const models::MatrixDouble queries = future.queries(query_head).middleRows(begin, count).cast<double>();
        sum += exact_attention(queries, keys.topRows(visible.back()), visible, cache.geometry()).colwise().sum();
      }
      sum /= static_cast<double>(group.count * plan.block);
    }
    for (Index block = utility.rows() - 2; block >= 0; --block) {
      utility.row(block) = utility.row(block).cwiseMax(utility.row(block + 1));
    }
    return utilities_.emplace(std::tuple(head, plan.block, plan.kept), std::move(utility)).first->second;
  }

  static Index place_of(std::span<const std::int32_t> rows, Index row) {
    return std::lower_bound(rows.begin(), rows.end(), static_cast<std::int32_t>(row)) - rows.begin();
  }

  Index every_;
  std::map<std::tuple<int, Index, Index>, models::MatrixDouble> utilities_;  ///< by head and plan
};

const Registration registration(
    {.name = "golden_utility",
     .sentence = "Drops, block by block, the entries that every block of rows to come attends least; sees the future.",
     .citation = "ForesightKV, arXiv 2602.03203; RUCAIBox/ForesightKV supervised_training/train.py",
     .parameters = golden_eviction_parameters(),
     .make = MakeOracle([](const Parameters& parameters) { return std::make_unique<GoldenUtility>(parameters); })});

}  // namespace
}  // namespace evictsim::policies

#include <algorithm>

#include "policies/press.h"
#include "policies/registry.h"
#include "policies/scoring.h"
#include "policies/window_scorer.h"

namespace evictsim::policies {
namespace {

/// Attention from the last tokens seen, pooled over neighbours.
class SnapKv : public WindowScorer {
 public:
  explicit SnapKv(const Parameters& parameters)
      : WindowScorer(parameters.integer("window"),
                     parameters.choice("variant") == "original" ? WindowEntries::protect : WindowEntries::raise),
        original_(parameters.choice("variant") == "original"),
        kernel_(parameters.integer("kernel")),
        pooling_(pool_of(parameters)),
        group_(group_of(parameters)) {}

  /// Pooled per query head in both variants; window entries do not compete.
  [[nodiscard]] std::vector<std::vector<double>> attention_of_score(const CacheView& cache) override {
    const Index window = window_of(cache);
    std::vector<std::vector<double>> attention;
    for (int head = 0; head < cache.heads(); ++head) {
      const Index candidates = window == 0 ? 0 : count_before(cache.entries(head), cache.seen() - window);
      const QueryHeads queries = cache.query_heads(head);
      for (int query_head = queries.first; query_head < queries.first + queries.count; ++query_head) {
        std::vector<double> row;
        if (candidates > 0) row = pool(pooling_, window_sums(cache, query_head, window, candidates), kernel_);
        row.resize(cache.entries(head).size(), 0.0);
        attention.push_back(std::move(row));
      }
    }
    return attention;
  }

  [[nodiscard]] Granularity granularity() const override { return granularity_of(group_); }

 private:
  /// What the first `candidates` entries receive from the window.
  static std::vector<double> window_sums(const CacheView& cache, int query_head, Index window, Index candidates) {
    const models::MatrixView attention = cache.window_attention(query_head, window);
    std::vector<double> row(static_cast<std::size_t>(candidates));
    for (Index i = 0; i < candidates; ++i) {
      row[static_cast<std::size_t>(i)] = attention.row(i).cast<double>().sum();
    }
    return row;
  }

  [[nodiscard]] std::vector<double> score_head(const CacheView& cache, int head, Index window,
                                               Index candidates) override {
    const QueryHeads queries = cache.query_heads(head);
    std::vector<std::vector<double>> rows;
    for (int query_head = queries.first; query_head < queries.first + queries.count; ++query_head) {
      std::vector<double> row = window_sums(cache, query_head, window, candidates);
      if (!original_) {
        for (double& sum : row) sum /= static_cast<double>(window);
      }
      rows.push_back(original_ ? std::move(row) : pool(pooling_, row, kernel_));
    }
    std::vector<double> reduced = reduce_group(group_, rows);
    return original_ ? pool(pooling_, reduced, kernel_) : reduced;
  }

  bool original_;
  Index kernel_;
  Pooling pooling_;
  GroupReduction group_;
};

const Registration registration(
    {.name = "snapkv",
     .sentence = "Keeps what the last tokens attend to, pooled over neighbours, and those tokens themselves.",
     .citation = "SnapKV, arXiv 2404.14469; kvpress 0.5.5 SnapKVPress (library), FasterDecoding/SnapKV and "
                 "KVCache-Factory (original)",
     .parameters = {choice_parameter(
                        "variant", {"library", "original"},
                        "library: mean over the window, pooled, then the group reduced, window entries "
                        "score the layer's largest + 1; original: sum over the window, group reduced, then "
                        "pooled, window entries protected"),
                    integer_parameter("window", "64", 1, 65536, "last tokens whose attention counts"),
                    kernel_parameter(), pool_parameter(), group_parameter()},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<SnapKv>(parameters); }),
     .is_policy = true});

const PressRegistration press({.name = "SnapKVPress",
                               .part = "snapkv",
                               .arguments = {compression_ratio_argument,
                                             {"window_size", PressValue::integer, "64", "window"},
                                             {"kernel_size", PressValue::integer, "5", "kernel"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 return {.name = "snapkv",
                                         .arguments = {"variant=library", "window=" + given["window_size"],
                                                       "kernel=" + given["kernel_size"], "pool=avg", "group=mean"}};
                               }});

}  // namespace
}  // namespace evictsim::policies

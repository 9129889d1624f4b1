// What does a formula cost over the same scorer in C++?
#include <benchmark/benchmark.h>

#include <string>

#include "policies/policy.h"
#include "tests/bench/limits.h"
#include "tests/support/cache_double.h"

namespace {

using namespace evictsim;
using models::Index;

constexpr Index window = 64;

/// A prompt whose keys and attention lie ready, as the engine's do: only the scoring is timed.
class ReadyCache final : public tests::CacheDouble {
 public:
  explicit ReadyCache(const tests::CacheShape& shape) : CacheDouble(shape) {
    for (int query_head = 0; query_head < shape.query_heads; ++query_head) {
      attention_.push_back(models::Matrix::Random(shape.prompt, window).cwiseAbs());
    }
  }
  [[nodiscard]] models::MatrixView keys(int head) const override { return whole(all_keys, head); }
  [[nodiscard]] models::MatrixView values(int head) const override { return whole(all_values, head); }
  [[nodiscard]] models::MatrixView window_attention(int query_head, Index) const override {
    return whole(attention_, query_head);
  }

 private:
  static models::MatrixView whole(const std::vector<models::Matrix>& all, int head) {
    const models::Matrix& matrix = all[static_cast<std::size_t>(head)];
    return models::view(matrix.data(), matrix.rows(), matrix.cols());
  }
  std::vector<models::Matrix> attention_;
};

double seconds_to_score(const policies::Policy& policy, const policies::CacheView& cache) {
  const auto scorer = policy.make_scorer();
  return bench::fastest(5, [&] {
    policies::LayerScores scores(cache);
    scorer->score(cache, {.cached = cache.seen(), .entries = cache.seen() / 4}, scores);
    benchmark::DoNotOptimize(scores.of(0).data());
  });
}

/// A layer with 8 query and 2 KV heads, d 128.
void formula_over_scorer(benchmark::State& state, const std::string& formula, const std::string& scorer) {
  const auto prompt = static_cast<int>(state.range(0));
  const ReadyCache cache({.query_heads = 8, .kv_heads = 2, .head_dim = 128, .prompt = prompt, .length = prompt});
  const policies::Policy by_formula = policies::parse_policy(formula);
  const policies::Policy by_scorer = policies::parse_policy(scorer);
  double ours = 1e9;
  double limit = 1e9;
  for (auto _ : state) {
    ours = std::min(ours, seconds_to_score(by_formula, cache));
    limit = std::min(limit, seconds_to_score(by_scorer, cache));
  }
  state.counters["formula_ms"] = ours * 1e3;
  state.counters["scorer_ms"] = limit * 1e3;
  state.counters["ratio"] = ours / limit;
}

}  // namespace

BENCHMARK_CAPTURE(formula_over_scorer, knorm, "score: -norm(k)", "knorm")->ArgName("T")->Arg(4096)->Arg(16384);
BENCHMARK_CAPTURE(formula_over_scorer, snapkv,
                  "score: raise_recent(pool_avg(older(mean(attention, window=64), window=64), kernel=5), window=64)",
                  "snapkv")
    ->ArgName("T")
    ->Arg(4096)
    ->Arg(16384);

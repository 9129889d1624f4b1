// Do KVzip and KVCompose score a second pass and share budgets as their formulas say?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "policies/policy.h"
#include "tests/support/cache_double.h"

using namespace evictsim;
using namespace evictsim::policies;
using tests::CacheDouble;
using tests::CacheShape;

namespace {

/// Two chunks: rows 0 .. 3 of the second pass repeat tokens 2 .. 8, rows 4 .. 6 tokens 9 .. 14.
void add_second_pass(CacheDouble& cache, bool with_keys) {
  const int rows = 7;
  cache.second_pass.clear();
  for (int query_head = 0; query_head < cache.geometry().num_query_heads; ++query_head) {
    cache.second_pass.push_back(2.0F * cache.all_queries[static_cast<std::size_t>(query_head)].middleRows(16, rows));
  }
  if (with_keys) {
    for (const models::Matrix& keys : cache.all_keys) cache.second_pass_own_keys.push_back(keys.middleRows(17, rows));
  }
  cache.second_pass_ranges.assign(4, traces::Span{2, 9});
  cache.second_pass_ranges.resize(7, traces::Span{9, 15});
}

/// Attention of second-pass row `row` over sinks, chunk and own rows, for the entries of the chunk; by the definition.
std::vector<double> attention(const CacheDouble& cache, int query_head, int row, int sinks) {
  const auto kv_head = static_cast<std::size_t>(cache.geometry().kv_head_of(query_head));
  const traces::Span chunk = cache.second_pass_ranges[static_cast<std::size_t>(row)];
  const auto logit = [&](const auto& key) {
    return cache.second_pass[static_cast<std::size_t>(query_head)].row(row).template cast<double>().dot(
               key.template cast<double>()) /
           std::sqrt(8.0);
  };
  double total = 0;
  std::vector<double> weights;
  for (Index i = 0; i < std::min<Index>(sinks, chunk.first); ++i)
    total += std::exp(logit(cache.all_keys[kv_head].row(i)));
  for (Index i = chunk.first; i < chunk.last; ++i) {
    weights.push_back(std::exp(logit(cache.all_keys[kv_head].row(i))));
    total += weights.back();
  }
  for (int own = row < 4 ? 0 : 4; own <= row && !cache.second_pass_own_keys.empty(); ++own) {
    total += std::exp(logit(cache.second_pass_own_keys[kv_head].row(own)));
  }
  for (double& weight : weights) weight /= total;
  return weights;
}

LayerScores scores_of(const std::string& policy, const CacheDouble& cache) {
  LayerScores scores(cache);
  parse_policy(policy).make_scorer()->score(cache, {.cached = 16, .entries = 8, .exact_entries = 8, .share = 0.5},
                                            scores);
  return scores;
}

LayerScores some_scores(const CacheDouble& cache, float factor) {
  LayerScores scores(cache);
  for (int head = 0; head < scores.heads(); ++head) {
    for (std::size_t i = 0; i < scores.of(head).size(); ++i) {
      scores.of(head)[i] = factor * static_cast<float>((i * 7 + static_cast<std::size_t>(3 * head)) % 16);
    }
  }
  return scores;
}

}  // namespace

TEST_CASE("kvzip: the most attention from the rows that repeat an entry's chunk") {
  for (const bool with_keys : {false, true}) {
    CacheDouble cache(CacheShape{.query_heads = 4, .kv_heads = 2, .prompt = 16});
    add_second_pass(cache, with_keys);
    const Index width = cache.geometry().hidden_size;
    cache.w_o = models::Matrix::Random(width, width);
    const LayerScores scores = scores_of("kvzip(sinks=3)", cache);
    const LayerScores plus = scores_of("kvzip(sinks=3,plus=true)", cache);
    for (int head = 0; head < 2; ++head) {
      std::vector<double> expected(16, 0.0), weighted(16, 0.0);
      for (int query_head = 2 * head; query_head < 2 * head + 2; ++query_head) {
        for (int row = 0; row < 7; ++row) {
          const std::vector<double> weights = attention(cache, query_head, row, 3);
          for (std::size_t i = 0; i < weights.size(); ++i) {
            const auto entry = static_cast<std::size_t>(row < 4 ? 2 : 9) + i;
            const Eigen::VectorXd value = cache.all_values[static_cast<std::size_t>(head)]
                                              .row(static_cast<Index>(entry))
                                              .cast<double>()
                                              .transpose();
            const Eigen::MatrixXd weights_of_head = cache.w_o.middleCols(8 * query_head, 8).cast<double>();
            expected[entry] = std::max(expected[entry], weights[i]);
            weighted[entry] = std::max(weighted[entry], weights[i] * (weights_of_head * value).norm());
          }
        }
      }
      for (std::size_t i = 0; i < 16; ++i) {
        INFO(with_keys << " " << head << " " << i);
        CHECK(scores.of(head)[i] == Approx(expected[i]).epsilon(1e-5));
        CHECK(plus.of(head)[i] == Approx(weighted[i]).epsilon(1e-5));
        CHECK(scores.is_protected(head, static_cast<Index>(i)) == (i < 3));
      }
    }
  }
  CHECK(parse_policy("kvzip").needs.second_pass);
}

TEST_CASE("kvzip removes a truncated share of all entries, over layers or in each") {
  CacheDouble cache(CacheShape{.prompt = 16});
  const LayerScores low = some_scores(cache, 1);
  const LayerScores high = some_scores(cache, 100);
  const CutBudget budget{.cached = 16, .entries = 11, .exact_entries = 16 * 0.7, .share = 0.7};
  const std::vector<AllocationRequest> layers = {{.budget = budget, .layer = 0, .num_layers = 2, .scores = &low},
                                                 {.budget = budget, .layer = 1, .num_layers = 2, .scores = &high}};
  std::vector<std::vector<Index>> counts(2, std::vector<Index>(2, -1));
  parse_policy("kvzip").allocator->allocate_model(layers, counts);
  // 64 - int(64 * 0.3) = 45 stay: the second layer's 30 above 0 and the first's best 15 of 30 above 0.
  CHECK(counts[0][0] + counts[0][1] == 15);
  CHECK(counts[1][0] + counts[1][1] == 30);
  const Policy by_layer = parse_policy("kvzip(layerwise=true)");
  CHECK(by_layer.allocator->scope() == AllocationScope::layer);
  std::vector<Index> one(2);
  by_layer.allocator->allocate(layers[0], one);
  CHECK(one[0] + one[1] == 23);  // 32 - int(9.6)
}

TEST_CASE("kvcompose: rows, group and heads reduced") {
  CacheDouble cache(CacheShape{.query_heads = 4, .kv_heads = 2, .prompt = 16});
  add_second_pass(cache, true);
  for (auto& range : cache.second_pass_ranges) range = {2, 9};
  for (const bool with_max : {true, false}) {
    std::vector<std::vector<double>> rows(2, std::vector<double>(16, 0.0));
    for (int query_head = 0; query_head < 4; ++query_head) {
      std::vector<double> reduced(7, 0.0);
      for (int row = 0; row < 7; ++row) {
        // One pass of seven rows: row 4 sees own rows from 0 on.
        double total = 0;
        std::vector<double> weights;
        const auto kv_head = static_cast<std::size_t>(query_head / 2);
        const auto logit = [&](const auto& key) {
          return std::exp(cache.second_pass[static_cast<std::size_t>(query_head)].row(row).template cast<double>().dot(
                              key.template cast<double>()) /
                          std::sqrt(8.0));
        };
        for (Index i = 2; i < 9; ++i) weights.push_back(logit(cache.all_keys[kv_head].row(i)));
        for (const double weight : weights) total += weight;
        for (int own = 0; own <= row; ++own) total += logit(cache.second_pass_own_keys[kv_head].row(own));
        for (std::size_t i = 0; i < 7; ++i) {
          reduced[i] = with_max ? std::max(reduced[i], weights[i] / total) : reduced[i] + weights[i] / total / 7;
        }
      }
      for (std::size_t i = 0; i < 7; ++i) rows[static_cast<std::size_t>(query_head / 2)][i + 2] += reduced[i] / 2;
    }
    const LayerScores scores = scores_of(with_max ? "kvcompose" : "kvcompose(task=mean)", cache);
    for (int head = 0; head < 2; ++head) {
      for (std::size_t i = 0; i < 16; ++i) {
        const double expected = rows[static_cast<std::size_t>(head)][i] + (rows[0][i] + rows[1][i]) / 2;
        CHECK(scores.of(head)[i] == Approx(expected).epsilon(1e-5));
      }
    }
  }
}

TEST_CASE("kvcompose: composite tokens share the budget over layers, heads of a layer keep equally many") {
  CacheDouble cache(CacheShape{.prompt = 4});
  LayerScores first(cache), second(cache);
  const auto fill = [](LayerScores& scores, int head, std::vector<float> values) {
    std::copy(values.begin(), values.end(), scores.of(head).begin());
  };
  fill(first, 0, {1, 9, 3, 2});    // sorted 9 3 2 1
  fill(first, 1, {5, 1, 1, 0});    // sorted 5 1 1 0: composites 7 2 1.5 0.5
  fill(second, 0, {8, 8, 0, 4});   // sorted 8 8 4 0
  fill(second, 1, {6, 0, 4, 10});  // sorted 10 6 4 0: composites 9 7 4 0
  const CutBudget budget{.cached = 4, .entries = 2, .exact_entries = 2, .share = 0.5};
  const std::vector<AllocationRequest> layers = {{.budget = budget, .layer = 0, .num_layers = 2, .scores = &first},
                                                 {.budget = budget, .layer = 1, .num_layers = 2, .scores = &second}};
  std::vector<std::vector<Index>> counts(2, std::vector<Index>(2, -1));
  // The first layer takes the larger of both: 9 7 4 0.5 against 9 7 4 0. Four of eight: 9 9 7 7.
  parse_policy("kvcompose").allocator->allocate_model(layers, counts);
  CHECK(counts == std::vector<std::vector<Index>>{{2, 2}, {2, 2}});
  parse_policy("kvcompose(floor=3)").allocator->allocate_model(layers, counts);
  CHECK(counts == std::vector<std::vector<Index>>{{3, 3}, {3, 3}});
  // Unstructured: the best int(16 * 0.5) = 8 single scores are 10 9 8 8 6 5 4 4.
  parse_policy("kvcompose(structured=false)").allocator->allocate_model(layers, counts);
  CHECK(counts[0] == std::vector<Index>{1, 1});
  CHECK(counts[1][0] + counts[1][1] == 6);
}

// Do the scorers compute their formulas, against plain float64 loops?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "policies/policy.h"
#include "policies/registry.h"
#include "tests/support/cache_double.h"

using namespace evictsim;
using namespace evictsim::policies;
using tests::CacheDouble;
using tests::CacheShape;

namespace {

using Row = std::vector<double>;

CutBudget half_of(const CacheDouble& cache) {
  const Index cached = std::ssize(cache.resident[0]);
  return {.cached = cached, .entries = cached / 2, .exact_entries = static_cast<double>(cached) / 2};
}

LayerScores scores_of(const std::string& policy, const CacheDouble& cache, CutBudget budget) {
  LayerScores scores(cache);
  parse_policy(policy).make_scorer()->score(cache, budget, scores);
  return scores;
}
LayerScores scores_of(const std::string& policy, const CacheDouble& cache) {
  return scores_of(policy, cache, half_of(cache));
}

void check_row(std::span<const float> row, const Row& expected, std::size_t count) {
  REQUIRE(row.size() >= count);
  REQUIRE(expected.size() >= count);
  for (std::size_t i = 0; i < count; ++i) {
    INFO("entry " << i);
    CHECK(row[i] == Approx(expected[i]).epsilon(2e-6).margin(1e-7));
  }
}
void check_row(std::span<const float> row, const Row& expected) {
  REQUIRE(row.size() == expected.size());
  check_row(row, expected, row.size());
}

double norm(const models::Matrix& matrix, Index row) {
  double squares = 0;
  for (Index c = 0; c < matrix.cols(); ++c) squares += static_cast<double>(matrix(row, c)) * matrix(row, c);
  return std::sqrt(squares);
}

/// Mean (or sum) over the last `window` prompt rows of what every prompt entry receives.
Row window_row(const CacheDouble& cache, int query_head, int window, bool mean) {
  const Index n = cache.prompt_length();
  Row row(static_cast<std::size_t>(n), 0.0);
  for (Index token = n - window; token < n; ++token) {
    const auto weights = cache.attention_of(query_head, token, cache.positions().first(static_cast<std::size_t>(n)));
    for (std::size_t i = 0; i < row.size(); ++i) row[i] += mean ? weights[i] / window : weights[i];
  }
  row.resize(row.size() - static_cast<std::size_t>(window));
  return row;
}

Row pooled(const Row& row, int kernel, bool max) {
  Row result;
  for (int i = 0; i < static_cast<int>(row.size()); ++i) {
    double value = 0;
    for (int j = i - kernel / 2; j <= i + kernel / 2; ++j) {
      if (j < 0 || j >= static_cast<int>(row.size())) continue;
      const double neighbour = row[static_cast<std::size_t>(j)];
      value = max ? std::max(value, neighbour) : value + neighbour / kernel;
    }
    result.push_back(value);
  }
  return result;
}

}  // namespace

TEST_CASE("knorm and keydiff") {
  const CacheDouble cache(CacheShape{});
  const LayerScores norms = scores_of("knorm", cache);
  const LayerScores differences = scores_of("keydiff", cache);
  for (int head = 0; head < 2; ++head) {
    const models::Matrix& keys = cache.all_keys[static_cast<std::size_t>(head)];
    Row anchor(8, 0.0);
    for (Index i = 0; i < 24; ++i) {
      for (Index c = 0; c < 8; ++c) anchor[static_cast<std::size_t>(c)] += keys(i, c) / norm(keys, i) / 24;
    }
    const double length = std::sqrt(std::inner_product(anchor.begin(), anchor.end(), anchor.begin(), 0.0));
    Row by_norm, by_difference;
    for (Index i = 0; i < 24; ++i) {
      by_norm.push_back(-norm(keys, i));
      double dot = 0;
      for (Index c = 0; c < 8; ++c) dot += keys(i, c) * anchor[static_cast<std::size_t>(c)];
      by_difference.push_back(-dot / (norm(keys, i) * length));
    }
    check_row(norms.of(head), by_norm);
    check_row(differences.of(head), by_difference);
  }
}

TEST_CASE("snapkv of the library: mean over the window, pooled, mean over the group, window raised over the layer") {
  for (const int kv_heads : {6, 3, 2, 1}) {
    const CacheDouble cache(CacheShape{.query_heads = 6, .kv_heads = kv_heads});
    const int group = 6 / kv_heads;
    const LayerScores scores = scores_of("snapkv(window=5,kernel=3)", cache);
    double highest = 0;
    for (int head = 0; head < kv_heads; ++head) {
      Row expected(19, 0.0);
      for (int member = 0; member < group; ++member) {
        const Row row = pooled(window_row(cache, head * group + member, 5, true), 3, false);
        for (std::size_t i = 0; i < row.size(); ++i) expected[i] += row[i] / group;
      }
      check_row(scores.of(head), expected, 19);
      highest = std::max(highest, *std::max_element(expected.begin(), expected.end()));
      CHECK(scores.protected_count(head) == 0);
    }
    for (int head = 0; head < kv_heads; ++head) {
      for (std::size_t i = 19; i < 24; ++i) CHECK(scores.of(head)[i] == Approx(highest + 1).epsilon(1e-6));
    }
  }
}

TEST_CASE("snapkv of the paper: sum over the window, group first, then pooling, window protected") {
  for (const std::string reduction : {"mean", "max", "sum"}) {
    const CacheDouble cache(CacheShape{.query_heads = 4, .kv_heads = 2});
    const LayerScores scores =
        scores_of("snapkv(variant=original,window=5,kernel=3,pool=max,group=" + reduction + ")", cache);
    for (int head = 0; head < 2; ++head) {
      const Row a = window_row(cache, 2 * head, 5, false);
      const Row b = window_row(cache, 2 * head + 1, 5, false);
      Row joined;
      for (std::size_t i = 0; i < a.size(); ++i) {
        joined.push_back(reduction == "max" ? std::max(a[i], b[i]) : (a[i] + b[i]) / (reduction == "mean" ? 2 : 1));
      }
      check_row(scores.of(head), pooled(joined, 3, true), 19);
      CHECK(scores.protected_count(head) == 5);
      CHECK_FALSE(scores.is_protected(head, 18));
      CHECK(scores.is_protected(head, 19));
    }
  }
  const CacheDouble cache(CacheShape{.granularity = Granularity::query_head});
  const LayerScores scores = scores_of("snapkv(variant=original,window=5,kernel=3,pool=avg,group=none)", cache);
  REQUIRE(scores.heads() == 4);
  check_row(scores.of(3), pooled(window_row(cache, 3, 5, false), 3, false), 19);
}

TEST_CASE("tova: mean over all heads of the last token's attention, the same row for every head") {
  const CacheDouble cache(CacheShape{});
  Row expected(24, 0.0);
  for (int head = 0; head < 4; ++head) {
    const auto weights = cache.attention_of(head, 23, cache.positions());
    for (std::size_t i = 0; i < 24; ++i) expected[i] += weights[i] / 4;
  }
  const LayerScores original = scores_of("tova", cache);
  const LayerScores library = scores_of("tova(variant=library)", cache);
  const double highest = *std::max_element(expected.begin(), expected.end() - 1);
  for (int head = 0; head < 2; ++head) {
    check_row(original.of(head), expected);
    check_row(library.of(head), expected, 23);
    CHECK(library.of(head)[23] == Approx(highest + 1).epsilon(1e-6));
  }
}

TEST_CASE("h2o and observed attention at the prompt") {
  const CacheDouble cache(CacheShape{});
  const LayerScores observed = scores_of("observed_attention", cache);
  const LayerScores prefill = scores_of("h2o(variant=prefill,recent=6,group=sum)", cache);
  const LayerScores shared = scores_of("h2o(recent_share=0.25)", cache);
  for (int head = 0; head < 2; ++head) {
    Row sums(24, 0.0);
    for (int query_head = 2 * head; query_head < 2 * head + 2; ++query_head) {
      for (Index row = 0; row < 24; ++row) {
        const auto weights = cache.attention_of(query_head, row, cache.positions());
        for (std::size_t i = 0; i < 24; ++i) sums[i] += weights[i];
      }
    }
    check_row(prefill.of(head), sums);
    CHECK(prefill.protected_count(head) == 6);
    CHECK(prefill.is_protected(head, 18));
    CHECK(shared.protected_count(head) == 3);  // int(0.25 * 12)
    for (std::size_t i = 0; i < 24; ++i) sums[i] /= 2.0 * static_cast<double>(24 - i);
    check_row(observed.of(head), sums);
    CHECK(observed.protected_count(head) == 0);
  }
}

TEST_CASE("h2o goes on summing over what is resident") {
  CacheDouble cache(CacheShape{});
  const auto scorer = parse_policy("h2o(recent=2,group=sum)").make_scorer();
  scorer->begin_decode(cache);
  Row sums(27, 0.0);
  for (const int query_head : {2, 3}) {
    const auto prompt = cache.accumulated_attention(query_head);
    for (std::size_t i = 0; i < prompt.size(); ++i) sums[i] += prompt[i];
  }
  cache.resident[1] = {0, 4, 5, 9, 20, 22, 23};
  for (const Index seen : {25, 26, 27}) {
    cache.see(seen);
    if (seen == 27) cache.resident[1].erase(cache.resident[1].begin() + 1);
    scorer->observe(tests::StepDouble(cache));
    for (const int query_head : {2, 3}) {
      const auto weights = cache.attention_of(query_head, seen - 1, cache.resident[1]);
      for (std::size_t i = 0; i < weights.size(); ++i)
        sums[static_cast<std::size_t>(cache.resident[1][i])] += weights[i];
    }
  }
  LayerScores scores(cache);
  scorer->score(cache, half_of(cache), scores);
  Row expected;
  for (const std::int32_t row : cache.resident[1]) expected.push_back(sums[static_cast<std::size_t>(row)]);
  check_row(scores.of(1), expected);
  CHECK(scores.protected_count(1) == 2);
}

TEST_CASE("lagkv") {
  CacheDouble cache(CacheShape{.prompt = 24, .length = 24});
  const auto partition = [&](const models::Matrix& states, Index first) {
    Row spread(6);
    for (Index i = 0; i < 6; ++i) {
      Row relative;
      for (Index c = 0; c < 8; ++c) {
        double low = 1e30, high = -1e30;
        for (Index j = first + 6; j < first + 12; ++j) {
          low = std::min<double>(low, states(j, c));
          high = std::max<double>(high, states(j, c));
        }
        relative.push_back(high > low ? (states(first + i, c) - low) / (high - low) : 0.0);
      }
      const double mean = std::accumulate(relative.begin(), relative.end(), 0.0) / 8;
      double squares = 0;
      for (const double value : relative) squares += (value - mean) * (value - mean);
      spread[static_cast<std::size_t>(i)] = std::exp(std::sqrt(squares / 7));
    }
    const double total = std::accumulate(spread.begin(), spread.end(), 0.0);
    for (double& value : spread) value /= total;
    return spread;
  };
  const auto check = [&] {
    const LayerScores crossed = scores_of("lagkv(sinks=2,lag=6,cross=true)", cache);
    const LayerScores ranked = scores_of("lagkv(sinks=2,lag=6)", cache);
    for (std::size_t head = 0; head < 2; ++head) {
      Row expected(24, 1.0), ranks(24, 1.0);
      for (const Index first : {2, 8}) {  // the last full partition (14 .. 19) and the rest are the tail
        const Row keys = partition(cache.all_keys[head], first);
        const Row values = partition(cache.all_values[head], first);
        Row both;
        for (std::size_t i = 0; i < 6; ++i) both.push_back((keys[i] + values[i]) / 2);
        for (std::size_t i = 0; i < 6; ++i) {
          expected[static_cast<std::size_t>(first) + i] = both[i];
          const auto below = std::count_if(both.begin(), both.end(), [&](double other) { return other < both[i]; });
          ranks[static_cast<std::size_t>(first) + i] = static_cast<double>(below) / 6;
        }
      }
      check_row(crossed.of(static_cast<int>(head)), expected);
      check_row(ranked.of(static_cast<int>(head)), ranks);
    }
  };
  check();
  cache.all_keys[0].col(3).setConstant(0.5F);  // a constant channel counts as 0, where kvpress divides by zero
  check();
  Row ramp(24, 1.0);
  for (std::size_t i = 4; i < 24; ++i) ramp[i] = static_cast<double>(i - 4) / 20;
  check_row(scores_of("lagkv", cache).of(0), ramp);
}

TEST_CASE("expected attention: Gaussian queries under the mean rotation") {
  for (const auto layout : {traces::RopeLayout::half, traces::RopeLayout::interleaved}) {
    const CacheDouble cache(CacheShape{.layout = layout, .attention_scaling = 1.25});
    const int n = 24, d = 8, sinks = 3, future = 16;
    // R(p) as a full matrix.
    const auto rotation = [&](double position) {
      Eigen::MatrixXd matrix = Eigen::MatrixXd::Identity(d, d);
      for (int pair = 0; pair < d / 2; ++pair) {
        const double angle = position * std::pow(100.0, -2.0 * pair / d);
        const int a = layout == traces::RopeLayout::half ? pair : 2 * pair;
        const int b = layout == traces::RopeLayout::half ? pair + d / 2 : 2 * pair + 1;
        matrix(a, a) = matrix(b, b) = 1.25 * std::cos(angle);
        matrix(a, b) = -1.25 * std::sin(angle);
        matrix(b, a) = 1.25 * std::sin(angle);
      }
      return matrix;
    };
    Eigen::MatrixXd mean_rotation = Eigen::MatrixXd::Zero(d, d);
    for (int step = 0; step < future; ++step) mean_rotation += rotation(n + step) / future;
    for (const bool covariance : {true, false}) {
      const std::string text = std::string("expected_attention(future=16,sinks=3,epsilon=0.01,covariance=") +
                               (covariance ? "true)" : "false)");
      const LayerScores scores = scores_of(text, cache);
      const LayerScores plain = scores_of(text.substr(0, text.size() - 1) + ",value_norm=false)", cache);
      double highest = 0;
      for (int head = 0; head < 2; ++head) {
        Row expected(static_cast<std::size_t>(n), 0.0);
        const Eigen::MatrixXd keys = cache.all_keys[static_cast<std::size_t>(head)].cast<double>();
        for (int query_head = 2 * head; query_head < 2 * head + 2; ++query_head) {
          const Eigen::MatrixXd queries = cache.all_queries[static_cast<std::size_t>(query_head)].cast<double>();
          Eigen::VectorXd mean = Eigen::VectorXd::Zero(d);
          std::vector<Eigen::VectorXd> unrotated;
          for (int t = sinks; t < n; ++t) {
            unrotated.emplace_back(rotation(t).transpose() / (1.25 * 1.25) * queries.row(t).transpose());
            mean += unrotated.back() / (n - sinks);
          }
          Eigen::MatrixXd sigma = Eigen::MatrixXd::Zero(d, d);
          for (const auto& q : unrotated) sigma += (q - mean) * (q - mean).transpose() / (n - sinks);
          mean = mean_rotation * mean;
          sigma = mean_rotation * sigma * mean_rotation.transpose();
          double total = 0;
          Row weights;
          for (int j = sinks; j < n; ++j) {
            const Eigen::VectorXd k = keys.row(j).transpose();
            double z = k.dot(mean) / std::sqrt(static_cast<double>(d));
            if (covariance) z += k.dot(sigma * k) / (2 * d);
            weights.push_back(std::exp(z));
            total += weights.back();
          }
          for (int j = sinks; j < n; ++j) {
            expected[static_cast<std::size_t>(j)] += weights[static_cast<std::size_t>(j - sinks)] / total / 2;
          }
        }
        for (int j = sinks; j < n; ++j) {
          const auto place = static_cast<std::size_t>(j);
          CHECK(plain.of(head)[place] == Approx(expected[place]).epsilon(1e-5));
          const double value = (expected[place] + 0.01) * norm(cache.all_values[static_cast<std::size_t>(head)], j);
          CHECK(scores.of(head)[place] == Approx(value).epsilon(1e-5));
          highest = std::max(highest, value);
        }
      }
      for (int j = 0; j < sinks; ++j)
        CHECK(scores.of(1)[static_cast<std::size_t>(j)] == Approx(highest + 1).epsilon(1e-6));
    }
  }
}

TEST_CASE("streaming_llm of the library counts by itself, recency by place") {
  const CacheDouble cache(CacheShape{.prompt = 10, .length = 10});
  // 10 * 0.35 = 3.5: the cut keeps 3, the library prunes 7 from the fifth entry on.
  const LayerScores scores = scores_of("streaming_llm(variant=library)", cache, {10, 3, 3.5});
  check_row(scores.of(0), {1, 1, 1, 1, 0, 0, 0, 0, 0, 0});
  const LayerScores six = scores_of("streaming_llm(variant=library)", cache, {10, 6, 6.0});
  check_row(six.of(0), {1, 1, 1, 1, 0, 0, 0, 0, 1, 1});
  check_row(scores_of("window", cache).of(1), {0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
}

TEST_CASE("random: a row keeps its score, heads and seeds differ") {
  CacheDouble cache(CacheShape{});
  const LayerScores all = scores_of("random", cache);
  CHECK_FALSE(std::equal(all.of(0).begin(), all.of(0).end(), all.of(1).begin()));
  const LayerScores other = scores_of("random(seed=1)", cache);
  CHECK_FALSE(std::equal(all.of(0).begin(), all.of(0).end(), other.of(0).begin()));
  cache.resident[0] = {1, 5, 6, 20};
  const LayerScores some = scores_of("random", cache);
  check_row(some.of(0), {all.of(0)[1], all.of(0)[5], all.of(0)[6], all.of(0)[20]});
}

TEST_CASE("oracle_mass sums the future of a group") {
  const CacheDouble cache(CacheShape{.prompt = 3, .length = 3});
  tests::FutureDouble future(cache);
  future.masses = {{1, 2, 3}, {10, 20, 30}, {4, 5, 6}, {0, 0, 1}};
  LayerScores scores(cache);
  parse_policy("oracle_mass").make_oracle()->score(cache, half_of(cache), future, scores);
  check_row(scores.of(0), {11, 22, 33});
  check_row(scores.of(1), {4, 5, 7});
}

TEST_CASE("every causal policy scores sequences of any length with finite numbers") {
  for (const Part* part : registered_parts()) {
    if (!part->is_policy) continue;
    const Policy policy = parse_policy(part->name);
    if (!policy.make_scorer || !policy.needs.parameters.empty()) continue;
    for (const int length : {1, 2, 4, 5, 64, 65}) {
      INFO(part->name << " of " << length);
      CacheDouble cache(CacheShape{.prompt = length, .length = length});
      cache.all_keys[0].setZero();  // norms of zero and channels without range
      cache.all_values[0].setZero();
      const LayerScores scores = scores_of(part->name, cache);
      for (int head = 0; head < scores.heads(); ++head) {
        CHECK(std::all_of(scores.of(head).begin(), scores.of(head).end(),
                          [](float score) { return std::isfinite(score); }));
      }
      std::vector<Index> counts(static_cast<std::size_t>(scores.heads()));
      const std::vector<double> measured = policy.allocator->measure(cache);
      policy.allocator->allocate(
          {.budget = half_of(cache), .layer = 1, .num_layers = 4, .scores = &scores, .measured = measured}, counts);
      for (const Index count : counts) CHECK(count >= 0);
    }
  }
}

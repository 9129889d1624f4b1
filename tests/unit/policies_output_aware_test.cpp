// Do the scores that look at the attention output compute their formulas, and obey the identities these promise?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "policies/policy.h"
#include "tests/support/cache_double.h"

using namespace evictsim;
using namespace evictsim::policies;
using tests::CacheDouble;
using tests::CacheShape;

namespace {

using Row = std::vector<double>;

CacheDouble with_output_weights(const CacheShape& shape, unsigned seed = 7) {
  CacheDouble cache(shape, seed);
  std::mt19937 generator(seed + 100);
  std::normal_distribution<float> normal;
  cache.w_o.resize(12, shape.query_heads * shape.head_dim);
  for (Index i = 0; i < cache.w_o.size(); ++i) cache.w_o.data()[i] = normal(generator);
  return cache;
}

CutBudget half_of(const CacheDouble& cache) {
  const Index cached = std::ssize(cache.resident[0]);
  return {.cached = cached, .entries = cached / 2, .exact_entries = static_cast<double>(cached) / 2};
}

LayerScores scores_of(const std::string& policy, const CacheDouble& cache) {
  LayerScores scores(cache);
  parse_policy(policy).make_scorer()->score(cache, half_of(cache), scores);
  return scores;
}

void check_row(std::span<const float> row, const Row& expected) {
  REQUIRE(row.size() >= expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    INFO("entry " << i);
    CHECK(row[i] == Approx(expected[i]).epsilon(3e-6).margin(1e-7));
  }
}

/// Attention of the prompt's last `window` rows over the whole prompt: [row][entry].
std::vector<Row> window_attention(const CacheDouble& cache, int query_head, Index window) {
  std::vector<Row> rows;
  for (Index row = cache.prompt_length() - window; row < cache.prompt_length(); ++row) {
    rows.push_back(cache.attention_of(query_head, row, cache.entries(0)));
  }
  return rows;
}

/// W_O^(h) v of an entry: [D].
Row projected(const CacheDouble& cache, int query_head, Index entry) {
  const models::Matrix& values = cache.all_values[static_cast<std::size_t>(cache.geometry().kv_head_of(query_head))];
  Row result(static_cast<std::size_t>(cache.w_o.rows()), 0.0);
  for (Index out = 0; out < cache.w_o.rows(); ++out) {
    for (Index c = 0; c < values.cols(); ++c) {
      result[static_cast<std::size_t>(out)] +=
          static_cast<double>(cache.w_o(out, query_head * values.cols() + c)) * values(entry, c);
    }
  }
  return result;
}

double norm(const Row& row) {
  double squares = 0;
  for (const double value : row) squares += value * value;
  return std::sqrt(squares);
}

/// Frobenius norm of what the layer's output at the window's rows loses with an entry of a group of query heads.
double removed_norm(const CacheDouble& cache, QueryHeads group, Index window, Index entry) {
  std::vector<Row> removed(static_cast<std::size_t>(window), Row(static_cast<std::size_t>(cache.w_o.rows()), 0.0));
  for (int head = group.first; head < group.first + group.count; ++head) {
    const std::vector<Row> attention = window_attention(cache, head, window);
    const Row value = projected(cache, head, entry);
    for (std::size_t row = 0; row < removed.size(); ++row) {
      for (std::size_t c = 0; c < value.size(); ++c) {
        removed[row][c] += attention[row][static_cast<std::size_t>(entry)] * value[c];
      }
    }
  }
  double squares = 0;
  for (const Row& row : removed) squares += norm(row) * norm(row);
  return std::sqrt(squares);
}

Row column(const std::vector<Row>& rows, Index entry) {
  Row values;
  for (const Row& row : rows) values.push_back(row[static_cast<std::size_t>(entry)]);
  return values;
}

Row averaged_over_neighbours(const Row& row, int kernel) {
  Row result;
  for (int i = 0; i < static_cast<int>(row.size()); ++i) {
    double sum = 0;
    for (int j = std::max(0, i - kernel / 2); j <= std::min<int>(static_cast<int>(row.size()) - 1, i + kernel / 2);
         ++j) {
      sum += row[static_cast<std::size_t>(j)];
    }
    result.push_back(sum / kernel);
  }
  return result;
}

const CacheShape group_of_three = {.query_heads = 6, .kv_heads = 2, .head_dim = 4, .prompt = 20, .length = 24};

/// o - what remains after removing one entry and normalising again, by definition.
double change_without(const Row& weights, const std::vector<Row>& values, std::size_t removed) {
  Row whole(values[0].size(), 0.0);
  Row rest(values[0].size(), 0.0);
  double left = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (i != removed) left += weights[i];
    for (std::size_t c = 0; c < whole.size(); ++c) {
      whole[c] += weights[i] * values[i][c];
      if (i != removed) rest[c] += weights[i] * values[i][c];
    }
  }
  for (std::size_t c = 0; c < whole.size(); ++c) whole[c] -= rest[c] / left;
  return norm(whole);
}

std::vector<Row> values_of(const CacheDouble& cache, int kv_head, Index count) {
  std::vector<Row> values;
  for (Index i = 0; i < count; ++i) {
    Row row;
    for (Index c = 0; c < cache.all_values[static_cast<std::size_t>(kv_head)].cols(); ++c) {
      row.push_back(cache.all_values[static_cast<std::size_t>(kv_head)](i, c));
    }
    values.push_back(row);
  }
  return values;
}

Row normalised(Row row) {
  const double sum = std::accumulate(row.begin(), row.end(), 0.0);
  for (double& value : row) value /= sum;
  return row;
}

}  // namespace

TEST_CASE("LaProx: the exact rule is the norm of what the whole group loses") {
  const CacheDouble cache = with_output_weights(group_of_three);
  const LayerScores scores = scores_of("laprox(window=5,kernel=1,gqa=exact_group)", cache);
  for (int head = 0; head < 2; ++head) {
    Row expected;
    for (Index entry = 0; entry < 15; ++entry) expected.push_back(removed_norm(cache, {head * 3, 3}, 5, entry));
    check_row(scores.of(head), expected);
    CHECK(scores.protected_count(head) == 5);
  }
}

TEST_CASE("LaProx: mean attention is pooled before its norm meets the mean size of the projected values") {
  const CacheDouble cache = with_output_weights(group_of_three);
  const LayerScores scores = scores_of("laprox(window=4,kernel=3)", cache);
  for (int head = 0; head < 2; ++head) {
    Row norms;
    Row sizes;
    for (Index entry = 0; entry < 16; ++entry) {
      Row mean(4, 0.0);
      double size = 0;
      for (int query_head = head * 3; query_head < head * 3 + 3; ++query_head) {
        const Row received = column(window_attention(cache, query_head, 4), entry);
        for (std::size_t t = 0; t < mean.size(); ++t) mean[t] += received[t] / 3;
        size += norm(projected(cache, query_head, entry)) / 3;
      }
      norms.push_back(norm(mean));
      sizes.push_back(size);
    }
    Row expected = averaged_over_neighbours(norms, 3);
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] *= sizes[i];
    check_row(scores.of(head), expected);
  }
}

TEST_CASE("LaProx: products of each query head are averaged and pooled, or summed") {
  const CacheDouble cache = with_output_weights(group_of_three);
  Row mean(16, 0.0);
  for (Index entry = 0; entry < 16; ++entry) {
    for (int query_head = 0; query_head < 3; ++query_head) {
      mean[static_cast<std::size_t>(entry)] += removed_norm(cache, {query_head, 1}, 4, entry) / 3;
    }
  }
  check_row(scores_of("laprox(window=4,kernel=5,gqa=mean_score)", cache).of(0), averaged_over_neighbours(mean, 5));
  for (double& value : mean) value *= 3;
  check_row(scores_of("laprox(window=4,kernel=1,gqa=sum_eps)", cache).of(0), mean);
}

TEST_CASE("LaProx: without groups and pooling all rules are one") {
  CacheShape shape = group_of_three;
  shape.kv_heads = 6;
  const CacheDouble cache = with_output_weights(shape);
  const LayerScores exact = scores_of("laprox(window=5,kernel=1,gqa=exact_group)", cache);
  for (const char* rule : {"mean_attn", "mean_score", "sum_eps"}) {
    const LayerScores scores = scores_of("laprox(window=5,kernel=1,gqa=" + std::string(rule) + ")", cache);
    for (int head = 0; head < 6; ++head) {
      const auto row = exact.of(head);
      check_row(scores.of(head), Row(row.begin(), row.end()));
    }
  }
}

TEST_CASE("LaProx: pools hold their total; a layer's scale counts only where it is not divided out") {
  const CacheDouble cache = with_output_weights(group_of_three);
  CacheDouble louder = with_output_weights(group_of_three, 8);
  LayerScores first = scores_of("laprox(window=4)", cache);
  LayerScores second = scores_of("laprox(window=4)", louder);
  const auto counts_with = [&](const char* alloc) {
    const Policy policy = parse_policy("laprox(window=4,alloc=" + std::string(alloc) + ")");
    std::vector<AllocationRequest> requests;
    for (const LayerScores* scores : {&first, &second}) {
      requests.push_back({.budget = {.cached = 20, .entries = 9, .exact_entries = 9}, .scores = scores});
    }
    std::vector<std::vector<Index>> counts(2, std::vector<Index>(2, 0));
    policy.allocator->allocate_model(requests, counts);
    return counts;
  };
  const auto total = [](const std::vector<std::vector<Index>>& counts) {
    return counts[0][0] + counts[0][1] + counts[1][0] + counts[1][1];
  };
  const auto normalised_before = counts_with("global_norm");
  const auto raw_before = counts_with("global_raw");
  CHECK(total(normalised_before) == 4 * 9);
  CHECK(total(raw_before) == 4 * 9);
  const auto layer_counts = counts_with("layer");
  CHECK(layer_counts[0][0] + layer_counts[0][1] == 18);
  CHECK(counts_with("head") == std::vector<std::vector<Index>>(2, {9, 9}));
  for (int head = 0; head < 2; ++head) {
    for (float& score : second.of(head)) score *= 1024;
  }
  CHECK(counts_with("global_norm") == normalised_before);
  CHECK(counts_with("global_raw") != raw_before);
  for (float& score : first.of(0)) score *= 1024;
  CHECK(counts_with("global_norm") != normalised_before);
}

TEST_CASE("CAOTE: the score is the change of the output when the entry alone is removed") {
  CacheShape shape = group_of_three;
  shape.kv_heads = 6;
  const CacheDouble cache(shape);
  const Policy base = parse_policy("snapkv(window=4,kernel=1)");
  const std::unique_ptr<Scorer> scorer = base.make_scorer();
  LayerScores unused(cache);
  scorer->score(cache, half_of(cache), unused);
  const auto attention = scorer->attention_of_score(cache);
  const LayerScores scores = scores_of("caote(snapkv(window=4,kernel=1))", cache);
  for (int head = 0; head < 6; ++head) {
    Row weights = attention[static_cast<std::size_t>(head)];
    weights.resize(16);
    weights = normalised(weights);
    const std::vector<Row> values = values_of(cache, head, 16);
    Row expected;
    for (std::size_t i = 0; i < 16; ++i) expected.push_back(change_without(weights, values, i));
    check_row(scores.of(head), expected);
    CHECK(scores.protected_count(head) == 4);
  }
}

TEST_CASE("CAOTE: a group's attention is averaged or the largest taken; or each query head's error added") {
  const CacheDouble cache(group_of_three);
  Row sum(20, 0.0);
  Row mean(20, 0.0);
  Row largest(20, 0.0);
  const std::vector<Row> values = values_of(cache, 0, 20);
  for (int query_head = 0; query_head < 3; ++query_head) {
    const auto accumulated = cache.accumulated_attention(query_head);
    const Row weights = normalised(Row(accumulated.begin(), accumulated.end()));
    for (std::size_t i = 0; i < weights.size(); ++i) {
      sum[i] += change_without(weights, values, i);
      mean[i] += weights[i] / 3;
      largest[i] = std::max(largest[i], weights[i]);
    }
  }
  check_row(scores_of("caote(h2o(recent=2),gqa=sum_c)", cache).of(0), sum);
  const auto errors = [&](const Row& weights) {
    Row row;
    for (std::size_t i = 0; i < weights.size(); ++i) row.push_back(change_without(weights, values, i));
    return row;
  };
  check_row(scores_of("caote(h2o(recent=2))", cache).of(0), errors(mean));
  check_row(scores_of("caote(h2o(recent=2),gqa=max_a)", cache).of(0), errors(normalised(largest)));
  CHECK(scores_of("caote(h2o(recent=2))", cache).protected_count(0) == 2);
}

TEST_CASE("FastCAOTE: the mean value stands for the output") {
  const CacheDouble cache(group_of_three);
  const LayerScores scores = scores_of("fastcaote(h2o(recent=1))", cache);
  const std::vector<Row> values = values_of(cache, 0, 20);
  Row weights(20, 0.0);
  Row middle(4, 0.0);
  for (int query_head = 0; query_head < 3; ++query_head) {
    const auto accumulated = cache.accumulated_attention(query_head);
    for (std::size_t i = 0; i < weights.size(); ++i) weights[i] += accumulated[i];
  }
  weights = normalised(weights);
  for (const Row& value : values) {
    for (std::size_t c = 0; c < 4; ++c) middle[c] += value[c] / 20;
  }
  Row expected;
  for (std::size_t i = 0; i < 20; ++i) {
    Row distance(4);
    for (std::size_t c = 0; c < 4; ++c) distance[c] = middle[c] - values[i][c];
    expected.push_back(weights[i] / (1 - weights[i]) * norm(distance));
  }
  check_row(scores.of(0), expected);
}

TEST_CASE("CAOTE: scores that are not attention are moved up to stand for it") {
  const CacheDouble cache(group_of_three);
  const LayerScores base = scores_of("knorm", cache);
  const LayerScores scores = scores_of("caote(knorm)", cache);
  Row weights(base.of(1).begin(), base.of(1).end());
  const double lowest = *std::min_element(weights.begin(), weights.end());
  for (double& weight : weights) weight -= lowest;
  weights = normalised(weights);
  Row expected;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    expected.push_back(change_without(weights, values_of(cache, 1, 20), i));
  }
  check_row(scores.of(1), expected);
}

TEST_CASE("DropKV, OBCache and DefensiveKV, by their formulas") {
  const CacheDouble cache(group_of_three);
  Row drop(16, 0.0);
  Row value(16, 0.0);
  Row key(16, 0.0);
  Row joint(16, 0.0);
  Row most(16, 0.0);
  const std::vector<Row> values = values_of(cache, 0, 20);
  for (int query_head = 0; query_head < 3; ++query_head) {
    for (Index row = 16; row < 20; ++row) {
      const Row weights = cache.attention_of(query_head, row, cache.entries(0));
      Row output(4, 0.0);
      for (std::size_t i = 0; i < 20; ++i) {
        for (std::size_t c = 0; c < 4; ++c) output[c] += weights[i] * values[i][c];
      }
      for (std::size_t i = 0; i < 16; ++i) {
        const auto query = cache.all_queries[static_cast<std::size_t>(query_head)].row(row).cast<double>();
        const double logit = query.dot(cache.all_keys[0].row(static_cast<Index>(i)).cast<double>()) / 2;
        double size = 0;
        double distance = 0;
        double product = 0;
        for (std::size_t c = 0; c < 4; ++c) {
          size += values[i][c] * values[i][c];
          distance += (values[i][c] - output[c]) * (values[i][c] - output[c]);
          product += values[i][c] * output[c];
        }
        const double weight = weights[i];
        const double change = weight / (1 - weight + 1e-6);
        drop[i] += change * change * distance / 3;
        value[i] += weight * weight * size;
        key[i] += weight * weight * logit * logit * distance;
        joint[i] += 2 * weight * weight * logit * (size - product);
        most[i] = std::max(most[i], weight);
      }
    }
  }
  for (std::size_t i = 0; i < 16; ++i) joint[i] += value[i] + key[i];
  check_row(scores_of("dropkv(window=4,kernel=1)", cache).of(0), drop);
  check_row(scores_of("dropkv(window=4,kernel=3,pool=avg)", cache).of(0), averaged_over_neighbours(drop, 3));
  check_row(scores_of("obcache(window=4,kernel=1,of=value)", cache).of(0), value);
  check_row(scores_of("obcache(window=4,kernel=1,of=key)", cache).of(0), key);
  check_row(scores_of("obcache(window=4,kernel=1)", cache).of(0), joint);
  const double mean = std::accumulate(most.begin(), most.end(), 0.0) / 16;
  for (double& weight : most) weight = std::max(weight, mean);
  check_row(scores_of("defensivekv(window=4)", cache).of(0), most);
}

TEST_CASE("the oracle of LU-KV: the most that one of the next queries draws from an entry, behind W_O") {
  const CacheDouble cache = with_output_weights(group_of_three);
  const tests::FutureDouble future(cache);
  LayerScores scores(cache);
  const Policy policy = parse_policy("lukv_oracle(queries=3)");
  policy.make_oracle()->score(cache, half_of(cache), future, scores);
  std::vector<std::int32_t> rows(24);
  std::iota(rows.begin(), rows.end(), 0);
  for (int head = 0; head < 2; ++head) {
    Row expected(20, 0.0);
    for (int query_head = head * 3; query_head < head * 3 + 3; ++query_head) {
      for (std::size_t entry = 0; entry < 20; ++entry) {
        double most = 0;
        for (Index row = 20; row < 23; ++row) {
          const std::vector<std::int32_t> before(rows.begin(), rows.begin() + row + 1);
          most = std::max(most, cache.attention_of(query_head, row, before)[entry]);
        }
        expected[entry] += most * norm(projected(cache, query_head, static_cast<Index>(entry))) / 3;
      }
    }
    check_row(scores.of(head), expected);
  }
  CHECK(policy.is_oracle());
}

TEST_CASE("scores of the attention output are finite for the shortest sequences and all group sizes") {
  const int kv_heads = GENERATE(1, 2, 4, 8);
  const int prompt = GENERATE(1, 2, 4, 5);
  const CacheDouble cache =
      with_output_weights({.query_heads = 8, .kv_heads = kv_heads, .head_dim = 4, .prompt = prompt, .length = 8});
  for (const char* policy :
       {"laprox(window=4)", "laprox(window=4,gqa=exact_group)", "laprox(window=4,gqa=sum_eps)",
        "caote(snapkv(window=4))", "dropkv(window=4)", "obcache(window=4)", "defensivekv(window=4)", "lava(window=4)",
        "caote(h2o,gqa=sum_c)", "caote(tova)", "caote(random)", "fastcaote(snapkv(window=4),gqa=max_a)"}) {
    INFO(policy << ", prompt " << prompt);
    const LayerScores scores = scores_of(policy, cache);
    for (int head = 0; head < scores.heads(); ++head) {
      const auto row = scores.of(head);
      CHECK(std::all_of(row.begin(), row.end(), [](float score) { return std::isfinite(score); }));
    }
  }
}

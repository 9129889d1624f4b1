// Do CUR, CapKV, Compactor with its two terms, Q-Filters and expected attention compute their formulas?
#include <Eigen/Dense>
#include <catch2/catch.hpp>
#include <cmath>
#include <map>

#include "policies/policy.h"
#include "tests/support/cache_double.h"
#include "tests/support/weights_file.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::policies;
using tests::CacheDouble;
using tests::CacheShape;

namespace {

using Rows = std::vector<std::vector<double>>;

/// Path of a file in the scratch folder that holds these tensors.
std::string file_of(const std::string& name, const std::map<std::string, tests::WeightTensor>& tensors) {
  const std::string path = std::string(EVICTSIM_TEST_SCRATCH) + "/" + name + ".h5";
  tests::WeightsFile file(path);
  for (const auto& [place, tensor] : tensors) file.write(place, tensor);
  return path;
}

LayerScores scores_of(const std::string& policy, const CacheView& cache, double share = 0.5) {
  const Index cached = std::ssize(cache.entries(0));
  const double exact = static_cast<double>(cached) * share;
  LayerScores scores(cache);
  parse_policy(policy).make_scorer()->score(
      cache, {.cached = cached, .entries = static_cast<Index>(exact), .exact_entries = exact, .share = share}, scores);
  return scores;
}

void check_row(std::span<const float> row, const std::vector<double>& expected, double tolerance = 1e-5) {
  REQUIRE(row.size() == expected.size());
  for (std::size_t i = 0; i < row.size(); ++i) {
    INFO("entry " << i);
    CHECK(row[i] == Approx(expected[i]).epsilon(tolerance).margin(tolerance));
  }
}

/// Queries or keys [rows, d] before RoPE, by the model's own inverse, row by row.
Eigen::MatrixXd before_rope(const CacheDouble& cache, const models::Matrix& rotated, Index rows) {
  Eigen::MatrixXd result(rows, rotated.cols());
  for (Index row = 0; row < rows; ++row) {
    std::vector<double> vector(static_cast<std::size_t>(rotated.cols()));
    for (Index c = 0; c < rotated.cols(); ++c) vector[static_cast<std::size_t>(c)] = rotated(row, c);
    cache.rope().invert(std::span<double>(vector), static_cast<double>(row));
    for (Index c = 0; c < rotated.cols(); ++c) result(row, c) = vector[static_cast<std::size_t>(c)];
  }
  return result;
}

/// Mean over `count` positions from `first` on of a vector's rotations.
Eigen::VectorXd rotated_ahead(const CacheDouble& cache, const Eigen::VectorXd& vector, int first, int count) {
  Eigen::VectorXd sum = Eigen::VectorXd::Zero(vector.size());
  for (int position = first; position < first + count; ++position) {
    std::vector<double> turned(vector.begin(), vector.end());
    cache.rope().apply(std::span<double>(turned), position);
    sum += Eigen::Map<const Eigen::VectorXd>(turned.data(), vector.size());
  }
  return sum / count;
}

void standardise(Rows& rows) {
  double sum = 0, squares = 0, count = 0;
  for (const auto& row : rows) {
    for (const double value : row) sum += value;
    count += static_cast<double>(row.size());
  }
  for (const auto& row : rows) {
    for (const double value : row) squares += (value - sum / count) * (value - sum / count);
  }
  for (auto& row : rows) {
    for (double& value : row) value = (value - sum / count) / std::sqrt(squares / (count - 1));
  }
}

/// Attention inside chunks over entries [first, last), by the definition: a full chunk of padded rows and columns.
Rows noncausal(const CacheDouble& cache, Index first, Index last, Index chunk) {
  Rows scores;
  for (int head = 0; head < cache.heads(); ++head) {
    const models::Matrix& keys = cache.all_keys[static_cast<std::size_t>(head)];
    const QueryHeads group = cache.query_heads(head);
    std::vector<double> weighted;
    for (Index j = first; j < last; ++j) {
      const Index begin = first + (j - first) / chunk * chunk;
      double received = 0;
      for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
        const models::Matrix& queries = cache.all_queries[static_cast<std::size_t>(query_head)];
        for (Index row = begin; row < begin + chunk; ++row) {
          const auto logit = [&](Index column) {
            if (column >= last) return -1e-9;
            return row >= last ? 0.0 : queries.row(row).cast<double>().dot(keys.row(column).cast<double>());
          };
          double total = 0;
          for (Index column = begin; column < begin + chunk; ++column) total += std::exp(logit(column) - logit(j));
          received += 1 / total;
        }
      }
      weighted.push_back(received / group.count *
                         cache.all_values[static_cast<std::size_t>(head)].row(j).cast<double>().norm());
    }
    std::vector<double> pooled;
    for (std::size_t i = 0; i < weighted.size(); ++i) {
      const double before = i > 0 ? weighted[i - 1] : 0.0;
      const double after = i + 1 < weighted.size() ? weighted[i + 1] : 0.0;
      pooled.push_back((before + weighted[i] + after) / 3);
    }
    scores.push_back(pooled);
  }
  standardise(scores);
  return scores;
}

/// Phi as it stands in a file, [H_kv, d, width].
std::vector<float> some_phi(int heads, int head_dim, int width) {
  std::vector<float> phi;
  for (int i = 0; i < heads * head_dim * width; ++i) phi.push_back(std::sin(static_cast<float>(3 * i + 1)));
  return phi;
}

Rows leverage(const CacheDouble& cache, Index first, Index last, const std::vector<float>& phi, Index width) {
  Rows scores;
  const Index head_dim = cache.geometry().head_dim;
  for (int head = 0; head < cache.heads(); ++head) {
    Eigen::MatrixXd keys =
        before_rope(cache, cache.all_keys[static_cast<std::size_t>(head)], last).bottomRows(last - first);
    keys.rowwise() -= keys.colwise().mean().eval();
    const models::MatrixView sketch = models::view(phi.data() + head * head_dim * width, head_dim, width);
    const Eigen::MatrixXd x = keys * sketch.cast<double>();
    const Eigen::MatrixXd inverse = (x.transpose() * x + 0.01 * Eigen::MatrixXd::Identity(width, width)).inverse();
    std::vector<double>& row = scores.emplace_back();
    for (Index i = 0; i < x.rows(); ++i) row.push_back((x.row(i) * inverse * x.row(i).transpose()).value());
  }
  standardise(scores);
  return scores;
}

}  // namespace

TEST_CASE("cur: shares of squared norms within blocks") {
  const CacheDouble cache(CacheShape{.kv_heads = 1, .prompt = 21});
  const auto share = [&](const models::Matrix& rows, Index i, Index block) {
    double total = 0;
    for (Index j = i / block * block; j < std::min<Index>((i / block + 1) * block, 21); ++j) {
      total += rows.row(j).cast<double>().squaredNorm();
    }
    return rows.row(i).cast<double>().squaredNorm() / total;
  };
  const auto expected = [&](Index block, bool product, Index sinks) {
    std::vector<double> row;
    double total = 0;
    for (Index i = 0; i < 21; ++i) {
      const double key = share(cache.all_keys[0], i, block);
      const double value = share(cache.all_values[0], i, block);
      row.push_back(product ? key * value : (key + value) / 2);
      total += row.back();
    }
    for (double& score : row) score /= total;
    std::fill_n(row.begin(), sinks, 1.0);
    return row;
  };
  check_row(scores_of("cur(block=6,sinks=2)", cache).of(0), expected(6, true, 2));
  check_row(scores_of("cur(leverage=mean,block=16)", cache).of(0), expected(16, false, 4));
  const LayerScores raw = scores_of("cur(leverage=key,local=false,sinks=0)", cache);
  CHECK(raw.of(0)[3] / raw.of(0)[7] ==
        Approx(cache.all_keys[0].row(3).squaredNorm() / cache.all_keys[0].row(7).squaredNorm()));
  const LayerScores drawn = scores_of("cur(projected=true)", cache);
  check_row(scores_of("cur(projected=true)", cache).of(0), {drawn.of(0).begin(), drawn.of(0).end()}, 0);
  CHECK(drawn.of(0)[9] != scores_of("cur", cache).of(0)[9]);
}

TEST_CASE("cap: leverage of values, weighted by the alignment of keys with the query to come") {
  for (const int kv_heads : {4, 2, 1}) {
    CacheDouble cache(CacheShape{.kv_heads = kv_heads, .prompt = 20, .attention_scaling = 1.2});
    const LayerScores scores = scores_of("cap(tau=3,future=7,sinks=3,epsilon=0.01)", cache);
    double highest = 0;
    for (int head = 0; head < kv_heads; ++head) {
      const auto place = static_cast<std::size_t>(head);
      const QueryHeads group = cache.query_heads(head);
      std::vector<double> expected(20, 0.0);
      for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
        const Eigen::MatrixXd queries = before_rope(cache, cache.all_queries[static_cast<std::size_t>(query_head)], 20);
        const Eigen::VectorXd anchor = rotated_ahead(cache, queries.bottomRows(17).colwise().mean().transpose(), 20, 7);
        std::vector<double> logits;
        for (Index j = 3; j < 20; ++j) {
          const Eigen::VectorXd key = cache.all_keys[place].row(j).cast<double>().transpose();
          logits.push_back(3 * key.dot(anchor) / key.norm() / anchor.norm());
        }
        const double most = *std::max_element(logits.begin(), logits.end());
        Eigen::MatrixXd capacity = Eigen::MatrixXd::Identity(8, 8);
        for (Index j = 3; j < 20; ++j) {
          const Eigen::VectorXd value = cache.all_values[place].row(j).cast<double>().transpose();
          capacity += (std::exp(logits[static_cast<std::size_t>(j - 3)] - most) + 0.01) * value * value.transpose();
        }
        for (Index j = 3; j < 20; ++j) {
          const Eigen::VectorXd value = cache.all_values[place].row(j).cast<double>().transpose();
          expected[static_cast<std::size_t>(j)] += std::exp(logits[static_cast<std::size_t>(j - 3)] - most) *
                                                   value.dot(capacity.inverse() * value) / group.count;
        }
      }
      highest = std::max(highest, *std::max_element(expected.begin(), expected.end()));
      for (std::size_t j = 3; j < 20; ++j) CHECK(scores.of(head)[j] == Approx(expected[j]).epsilon(1e-5));
    }
    for (int head = 0; head < kv_heads; ++head) CHECK(scores.of(head)[1] == Approx(highest + 1).epsilon(1e-5));
  }
}

TEST_CASE("attention inside chunks, the last chunk filled up") {
  for (const int kv_heads : {3, 1}) {
    const CacheDouble cache(CacheShape{.query_heads = 3, .kv_heads = kv_heads, .prompt = 23});
    for (const Index chunk : {Index{5}, Index{23}, Index{40}}) {
      const LayerScores scores = scores_of("noncausal_attention(chunk=" + std::to_string(chunk) + ")", cache);
      const Rows expected = noncausal(cache, 0, 23, chunk);
      for (int head = 0; head < kv_heads; ++head) check_row(scores.of(head), expected[static_cast<std::size_t>(head)]);
    }
  }
}

TEST_CASE("leverage of sketched keys, alone and blended") {
  const std::vector<float> phi = some_phi(2, 8, 5);
  const CacheDouble cache(CacheShape{.prompt = 30});
  SECTION("a layer that is a group is no matrix") {
    CHECK_THROWS_AS(
        scores_of("leverage_score(sketch=5,phi='" + file_of("phi_group", {{"layer_001/phi", {{2, 8, 5}, phi}}}) + "')",
                  cache),
        Error);
  }
  SECTION("drawn: the same at every call, another for another width") {
    const LayerScores scores = scores_of("leverage_score(sketch=5)", cache);
    check_row(scores_of("leverage_score(sketch=5)", cache).of(1), {scores.of(1).begin(), scores.of(1).end()}, 0);
    CHECK(scores_of("leverage_score(sketch=6)", cache).of(1)[3] != scores.of(1)[3]);
  }
  SECTION("given") {
    const std::string given = "sketch=5,phi='" + file_of("phi", {{"layer_001", {{2, 8, 5}, phi}}}) + "'";
    const LayerScores alone = scores_of("leverage_score(" + given + ")", cache);
    const Rows expected = leverage(cache, 0, 30, phi, 5);
    for (int head = 0; head < 2; ++head) check_row(alone.of(head), expected[static_cast<std::size_t>(head)], 1e-4);

    const Rows first = leverage(cache, 3, 28, phi, 5);
    const Rows second = noncausal(cache, 3, 28, 10);
    for (const auto& [text, share, blending] :
         {std::tuple("auto", 0.3, 0.7), std::tuple("auto", 0.75, 0.25), std::tuple("0.35", 0.5, 0.35)}) {
      const LayerScores scores = scores_of(
          std::string("compactor(sinks=3,recent=2,chunk=10,blending=") + text + "," + given + ")", cache, share);
      double highest = -1e9;
      for (std::size_t head = 0; head < 2; ++head) {
        for (std::size_t i = 0; i < 25; ++i) {
          const double score = blending * first[head][i] + second[head][i];
          highest = std::max(highest, score);
          CHECK(scores.of(static_cast<int>(head))[i + 3] == Approx(score).epsilon(1e-4).margin(1e-4));
        }
      }
      for (int head = 0; head < 2; ++head) {
        CHECK(scores.of(head)[2] == Approx(highest).epsilon(1e-4));
        CHECK(scores.of(head)[29] == scores.of(head)[0]);
      }
    }
  }
}

TEST_CASE("short prompts score finitely") {
  for (const int prompt : {1, 2, 4, 5, 12, 13}) {
    const CacheDouble cache(CacheShape{.prompt = prompt});
    for (const char* policy : {"cur", "cap", "noncausal_attention", "leverage_score", "compactor", "qfilter"}) {
      CAPTURE(prompt, policy);
      const LayerScores scores = scores_of(policy, cache);
      for (const float score : scores.of(1)) CHECK(std::isfinite(score));
    }
  }
}

TEST_CASE("qfilter: the first singular direction of the queries, or filters given") {
  const CacheDouble cache(CacheShape{.query_heads = 6, .kv_heads = 2});
  const LayerScores scores = scores_of("qfilter", cache);
  for (int head = 0; head < 2; ++head) {
    Eigen::VectorXd direction = Eigen::VectorXd::Zero(8);
    for (int query_head = 3 * head; query_head < 3 * head + 3; ++query_head) {
      const Eigen::MatrixXd queries =
          cache.all_queries[static_cast<std::size_t>(query_head)].topRows(24).cast<double>();
      const Eigen::JacobiSVD<Eigen::MatrixXd> svd(queries, Eigen::ComputeThinV);
      const Eigen::VectorXd first = svd.matrixV().col(0);
      direction += queries.colwise().sum().dot(first) < 0 ? Eigen::VectorXd(-first) : first;
    }
    std::vector<double> expected;
    for (Index i = 0; i < 24; ++i) {
      expected.push_back(cache.all_keys[static_cast<std::size_t>(head)].row(i).cast<double>().dot(direction) / 3);
    }
    check_row(scores.of(head), expected);
  }
  std::vector<float> filters(16, 0.0F);
  filters[2] = 2;   // head 0: twice component 2
  filters[13] = 1;  // head 1: component 5
  const LayerScores given =
      scores_of("qfilter(weights='" + file_of("q_filter", {{"layer_001/q_filter", {{2, 8}, filters}}}) + "')", cache);
  for (std::size_t i = 0; i < 24; ++i) {
    CHECK(given.of(0)[i] == Approx(-2 * cache.all_keys[0](static_cast<Index>(i), 2)));
    CHECK(given.of(1)[i] == Approx(-cache.all_keys[1](static_cast<Index>(i), 5)));
  }
}

TEST_CASE("expected attention takes mean and covariance from a file") {
  const CacheDouble cache(CacheShape{.query_heads = 2, .kv_heads = 1, .prompt = 18});
  std::vector<float> means, covariances;
  for (int query_head = 0; query_head < 2; ++query_head) {
    const Eigen::MatrixXd queries =
        before_rope(cache, cache.all_queries[static_cast<std::size_t>(query_head)], 18).bottomRows(14);
    const Eigen::VectorXd mean = queries.colwise().mean();
    const Eigen::MatrixXd centred = queries.rowwise() - mean.transpose();
    const Eigen::MatrixXd covariance = centred.transpose() * centred / 14;
    for (Index a = 0; a < 8; ++a) {
      means.push_back(static_cast<float>(mean[a]));
      for (Index b = 0; b < 8; ++b) covariances.push_back(static_cast<float>(covariance(a, b)));
    }
  }
  const std::string given = "expected_attention(future=9,weights='" +
                            file_of("query_statistics", {{"layer_001/query_mean", {{2, 8}, means}},
                                                         {"layer_001/query_cov", {{2, 8, 8}, covariances}}}) +
                            "')";
  const LayerScores fitted = scores_of("expected_attention(future=9)", cache);
  check_row(scores_of(given, cache).of(0), {fitted.of(0).begin(), fitted.of(0).end()}, 1e-4);
  CHECK_FALSE(parse_policy(given).needs.all_queries);
}

#include "policies/compactor_terms.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>

#include "policies/random_matrix.h"
#include "policies/rotation.h"
#include "policies/scoring.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

constexpr double first_jitter = 0.01;
constexpr int jitter_tries = 5;
constexpr double padded_key_logit = -1e-9;
constexpr double smallest_deviation = 1e-6;
constexpr Index pooled_neighbours = 3;

/// Keys of a head at [first, last), before RoPE and centred: [places, d].
models::MatrixDouble centred_keys(const CacheView& cache, int head, Index first, Index last) {
  models::MatrixDouble keys = cache.keys(head).middleRows(first, last - first).cast<double>();
  const auto rows =
      cache.entries(head).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
  InverseRotation(cache, rows).apply(cache.rope(), keys);
  const Eigen::RowVectorXd mean = keys.colwise().mean();
  keys.rowwise() -= mean;
  return keys;
}

/// x_j^T (X^T X + jitter I)^-1 x_j of every row.
std::vector<double> leverage_of(const models::MatrixDouble& rows) {
  const Eigen::MatrixXd gram = rows.transpose() * rows;
  double jitter = first_jitter;
  for (int attempt = 0; attempt < jitter_tries; ++attempt, jitter *= 10) {
    Eigen::MatrixXd shifted = gram;
    shifted.diagonal().array() += jitter;
    const Eigen::LLT<Eigen::MatrixXd> factor(shifted);
    if (factor.info() != Eigen::Success) continue;
    const Eigen::MatrixXd half = factor.matrixL().solve(rows.transpose());  // |L^-1 x|^2 = x^T (L L^T)^-1 x
    std::vector<double> leverage(static_cast<std::size_t>(rows.rows()));
    for (Index i = 0; i < rows.rows(); ++i) leverage[static_cast<std::size_t>(i)] = half.col(i).squaredNorm();
    return leverage;
  }
  throw Error(ErrorCode::policy_failure, "the keys' Gram matrix cannot be factorised, whatever is added to it");
}

/// Adds to `received` what the entries of one chunk receive from the chunk's queries.
void attend_chunk(const CacheView& cache, int query_head, std::span<const std::int32_t> rows,
                  const models::MatrixDouble& keys, Index chunk, std::span<double> received) {
  const auto query_rows = cache.query_rows();
  const models::MatrixView queries = cache.queries(query_head);
  const auto padding = static_cast<double>(chunk - keys.rows());
  for (const std::int32_t row : rows) {
    const auto found = std::lower_bound(query_rows.begin(), query_rows.end(), row);
    if (found == query_rows.end() || *found != row) continue;
    const Eigen::VectorXd query = queries.row(found - query_rows.begin()).transpose().cast<double>();
    Eigen::VectorXd weights = keys * query;
    const double highest = padding > 0 ? std::max(weights.maxCoeff(), padded_key_logit) : weights.maxCoeff();
    weights = (weights.array() - highest).exp();
    const double total = weights.sum() + padding * std::exp(padded_key_logit - highest);
    for (Index i = 0; i < weights.size(); ++i) received[static_cast<std::size_t>(i)] += weights[i] / total;
  }
  // Rows that fill up the chunk: logit 0 for every entry.
  const double even = 1.0 / (static_cast<double>(keys.rows()) + padding * std::exp(padded_key_logit));
  for (double& value : received) value += padding * even;
}

}  // namespace

std::pair<Index, Index> Places::of(Index count) const {
  const Index first = std::min(skip_first, count);
  return {first, std::max(first, count - skip_last)};
}

Sketch::Sketch(const Parameters& parameters) : dimension_(parameters.integer("sketch")) {
  if (!parameters.words("phi").empty()) file_ = traces::Weights::open(parameters.words("phi"));
}

ParameterSpec Sketch::dimension_parameter() {
  return integer_parameter("sketch", "48", 1, 4096, "columns of the random matrix that keys are multiplied by");
}

ParameterSpec Sketch::file_parameter() {
  return text_parameter("phi", "file:/group of the random matrices, layer_000 [H_kv, d, sketch] each; drawn if empty");
}

models::MatrixDouble Sketch::matrix(const CacheView& cache, int head) const {
  const Index width = cache.geometry().head_dim;
  if (file_) {
    const auto kv_heads = static_cast<std::size_t>(cache.geometry().num_kv_heads);
    const traces::Tensor all = file_->read_layer_dataset(
        cache.layer(), {kv_heads, static_cast<std::size_t>(width), static_cast<std::size_t>(dimension_)},
        "[H_kv, d, sketch]");
    const int kv_head = cache.geometry().kv_head_of(cache.query_heads(head).first);
    return models::view(all.data.data() + kv_head * width * dimension_, width, dimension_).cast<double>();
  }
  std::mt19937_64 generator = cache.generator(head);
  return normal_matrix(generator, width, dimension_) / std::sqrt(static_cast<double>(dimension_));
}

HeadRows leverage_scores(const CacheView& cache, const Places& places, const Sketch& sketch) {
  HeadRows scores(static_cast<std::size_t>(cache.heads()));
  for (int head = 0; head < cache.heads(); ++head) {
    const auto [first, last] = places.of(std::ssize(cache.entries(head)));
    if (first == last) continue;
    scores[static_cast<std::size_t>(head)] =
        leverage_of(centred_keys(cache, head, first, last) * sketch.matrix(cache, head));
  }
  standardise(scores);
  return scores;
}

HeadRows noncausal_attention_scores(const CacheView& cache, const Places& places, Index chunk) {
  HeadRows scores(static_cast<std::size_t>(cache.heads()));
  for (int head = 0; head < cache.heads(); ++head) {
    const auto [first, last] = places.of(std::ssize(cache.entries(head)));
    std::vector<double> received(static_cast<std::size_t>(last - first), 0.0);
    const QueryHeads group = cache.query_heads(head);
    for (Index begin = first; begin < last; begin += chunk) {
      const Index count = std::min(chunk, last - begin);
      const models::MatrixDouble keys = cache.keys(head).middleRows(begin, count).cast<double>();
      const auto rows = cache.entries(head).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
      const auto share = std::span(received).subspan(static_cast<std::size_t>(begin - first), rows.size());
      for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
        attend_chunk(cache, query_head, rows, keys, chunk, share);
      }
    }
    const models::MatrixView values = cache.values(head);
    for (Index i = first; i < last; ++i) {
      received[static_cast<std::size_t>(i - first)] *= values.row(i).cast<double>().norm() / group.count;
    }
    scores[static_cast<std::size_t>(head)] = pool(Pooling::avg, received, pooled_neighbours);
  }
  standardise(scores);
  return scores;
}

void standardise(HeadRows& rows) {
  double sum = 0;
  double count = 0;
  for (const auto& row : rows) {
    for (const double value : row) sum += value;
    count += static_cast<double>(row.size());
  }
  const double mean = count > 0 ? sum / count : 0.0;
  double squares = 0;
  for (const auto& row : rows) {
    for (const double value : row) squares += (value - mean) * (value - mean);
  }
  const double deviation = std::max(count > 1 ? std::sqrt(squares / (count - 1)) : 0.0, smallest_deviation);
  for (auto& row : rows) {
    for (double& value : row) value = (value - mean) / deviation;
  }
}

}  // namespace evictsim::policies

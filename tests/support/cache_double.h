#pragma once
/// \file
/// A small in-memory cache for tests of policies: random tensors, any residency, attention by the float64 reference.

#include <cmath>
#include <map>
#include <random>
#include <vector>

#include "models/attention.h"
#include "policies/cache_view.h"
#include "policies/needs.h"

namespace evictsim::tests {

struct CacheShape {
  int query_heads = 4;
  int kv_heads = 2;
  int head_dim = 8;
  int prompt = 24;
  int length = 32;  ///< rows with tensors; decode rows follow the prompt
  policies::Granularity granularity = policies::Granularity::kv_head;
  traces::RopeLayout layout = traces::RopeLayout::half;
  double attention_scaling = 1;
};

class CacheDouble : public policies::CacheView {
 public:
  using Index = models::Index;

  explicit CacheDouble(const CacheShape& shape, unsigned seed = 7)
      : shape_(shape), rope_(shape.layout, frequencies(shape.head_dim), shape.attention_scaling), seen_(shape.prompt) {
    geometry_.num_layers = 4;
    geometry_.layers = {0, 1, 2, 3};
    geometry_.num_query_heads = shape.query_heads;
    geometry_.num_kv_heads = shape.kv_heads;
    geometry_.head_dim = shape.head_dim;
    geometry_.hidden_size = shape.query_heads * shape.head_dim;
    geometry_.attention_scale = 1.0 / std::sqrt(static_cast<double>(shape.head_dim));
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    const auto tensor = [&] {
      models::Matrix matrix(shape.length, shape.head_dim);
      for (Index i = 0; i < matrix.size(); ++i) matrix.data()[i] = normal(generator);
      return matrix;
    };
    for (int head = 0; head < shape.kv_heads; ++head) {
      all_keys.push_back(tensor());
      all_values.push_back(tensor());
    }
    for (int head = 0; head < shape.query_heads; ++head) all_queries.emplace_back(1.5F * tensor());
    for (int row = 0; row < shape.length; ++row) rows_.push_back(row);
    const auto fill = [&](models::Matrix& matrix, Index rows, Index columns) {
      matrix.resize(rows, columns);
      for (Index i = 0; i < matrix.size(); ++i) matrix.data()[i] = normal(generator);
    };
    fill(w_o, geometry_.hidden_size, geometry_.hidden_size);
    fill(input, shape.length, geometry_.hidden_size);
    second_pass.resize(static_cast<std::size_t>(shape.query_heads));
    for (models::Matrix& queries : second_pass) fill(queries, 3, shape.head_dim);
    second_pass_ranges.assign(3, traces::Span{0, shape.prompt});
    for (const traces::Channel channel : {traces::Channel::step_norm, traces::Channel::cos_final,
                                          traces::Channel::cos_attention, traces::Channel::residual_norm}) {
      for (const int index : geometry_.layers) channels[{channel, index}] = random_row(generator);
    }
    for (const int column : {0, 1, 2}) channels[{traces::Channel::entropy_top, column}] = random_row(generator);
    for (const traces::Channel channel : {traces::Channel::entropy, traces::Channel::logprob}) {
      channels[{channel, 0}] = random_row(generator);
    }
    resident.assign(static_cast<std::size_t>(heads()), {rows_.begin(), rows_.begin() + shape.prompt});
  }

  /// Moves time on: `seen` tokens, the new ones resident everywhere.
  void see(Index seen) {
    for (auto& rows : resident) rows.insert(rows.end(), rows_.begin() + seen_, rows_.begin() + seen);
    seen_ = seen;
  }

  std::vector<models::Matrix> all_keys, all_values;  ///< [kv head] [length, d]
  std::vector<models::Matrix> all_queries;           ///< [query head] [length, d]
  std::vector<std::vector<std::int32_t>> resident;   ///< [cache head]
  std::map<std::string, std::vector<traces::Span>> ranges;
  std::map<std::pair<traces::Channel, int>, std::vector<float>>
      channels;                             ///< by channel and index, [length]; all filled
  models::Matrix w_o;                       ///< [hidden_size, Hq * d]
  models::Matrix input;                     ///< [length, hidden_size]
  std::vector<models::Matrix> second_pass;  ///< [query head] [Ts, d]
  std::vector<traces::Span> second_pass_ranges;
  std::vector<models::Matrix> second_pass_own_keys;  ///< [kv head] [Ts, d]; empty: not recorded

  [[nodiscard]] const models::Geometry& geometry() const override { return geometry_; }
  [[nodiscard]] const models::Rope& rope() const override { return rope_; }
  [[nodiscard]] int layer() const override { return 1; }
  [[nodiscard]] Index prompt_length() const override { return shape_.prompt; }
  [[nodiscard]] Index seen() const override { return seen_; }
  [[nodiscard]] std::span<const std::int32_t> positions() const override { return first_rows(); }
  [[nodiscard]] int heads() const override {
    return shape_.granularity == policies::Granularity::kv_head ? shape_.kv_heads : shape_.query_heads;
  }
  [[nodiscard]] policies::QueryHeads query_heads(int head) const override {
    const int group = shape_.query_heads / heads();
    return {head * group, group};
  }
  [[nodiscard]] std::span<const std::int32_t> entries(int head) const override {
    return resident[static_cast<std::size_t>(head)];
  }
  [[nodiscard]] std::span<const float> channel(traces::Channel channel, int index) const override {
    return std::span(channels.at({channel, index})).first(static_cast<std::size_t>(seen_));
  }
  [[nodiscard]] models::MatrixView output_weights(int query_head) const override {
    return models::view(w_o.data() + query_head * shape_.head_dim, w_o.rows(), shape_.head_dim, w_o.cols());
  }
  [[nodiscard]] models::MatrixView layer_input() const override {
    return models::view(input.data(), seen_, input.cols());
  }
  [[nodiscard]] models::MatrixView second_pass_queries(int query_head) const override {
    const models::Matrix& queries = second_pass[static_cast<std::size_t>(query_head)];
    return models::view(queries.data(), queries.rows(), queries.cols());
  }
  [[nodiscard]] std::span<const traces::Span> second_pass_chunks() const override { return second_pass_ranges; }
  [[nodiscard]] models::MatrixView second_pass_keys(int kv_head) const override {
    if (second_pass_own_keys.empty()) return models::view(nullptr, 0, shape_.head_dim);
    const models::Matrix& keys = second_pass_own_keys[static_cast<std::size_t>(kv_head)];
    return models::view(keys.data(), keys.rows(), keys.cols());
  }
  [[nodiscard]] models::MatrixView keys(int head) const override { return gather(all_keys, head, gathered_keys_); }
  [[nodiscard]] models::MatrixView values(int head) const override {
    return gather(all_values, head, gathered_values_);
  }
  [[nodiscard]] std::span<const std::int32_t> query_rows() const override { return first_rows(); }
  [[nodiscard]] models::MatrixView queries(int query_head) const override {
    return models::view(all_queries[static_cast<std::size_t>(query_head)].data(), seen_, shape_.head_dim);
  }

  /// Softmax of token `row` over the resident entries up to it, in the order of the query head's cache.
  [[nodiscard]] std::vector<double> attention_of(int query_head, Index row,
                                                 std::span<const std::int32_t> entries) const {
    std::vector<std::int32_t> visible;
    for (const std::int32_t entry : entries) {
      if (entry <= row) visible.push_back(entry);
    }
    const models::Matrix& queries = all_queries[static_cast<std::size_t>(query_head)];
    const models::Matrix& keys = all_keys[static_cast<std::size_t>(geometry_.kv_head_of(query_head))];
    std::vector<double> weights = models::reference_weights(
        {queries.row(row).data(), static_cast<std::size_t>(shape_.head_dim)},
        models::view(keys.data(), keys.rows(), keys.cols()), visible, {.scale = geometry_.attention_scale});
    weights.resize(entries.size(), 0.0);
    return weights;
  }

  [[nodiscard]] models::MatrixView window_attention(int query_head, Index rows) const override {
    const auto own = entries(query_head / (shape_.query_heads / heads()));
    models::Matrix& matrix = windows_[query_head];
    matrix.resize(std::ssize(own), rows);
    for (Index r = 0; r < rows; ++r) {
      const std::vector<double> weights = attention_of(query_head, seen_ - rows + r, own);
      for (Index i = 0; i < matrix.rows(); ++i) matrix(i, r) = static_cast<float>(weights[static_cast<std::size_t>(i)]);
    }
    return models::view(matrix.data(), matrix.rows(), matrix.cols());
  }
  [[nodiscard]] std::span<const double> accumulated_attention(int query_head) const override {
    std::vector<double>& sums = accumulated_[query_head];
    const std::span<const std::int32_t> prompt(rows_.data(), static_cast<std::size_t>(shape_.prompt));
    sums.assign(prompt.size(), 0.0);
    for (Index row = 0; row < shape_.prompt; ++row) {
      const std::vector<double> weights = attention_of(query_head, row, prompt);
      for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += weights[i];
    }
    return sums;
  }
  [[nodiscard]] std::span<const traces::Span> spans(std::string_view kind) const override {
    const auto found = ranges.find(std::string(kind));
    return found == ranges.end() ? std::span<const traces::Span>() : std::span<const traces::Span>(found->second);
  }
  [[nodiscard]] std::mt19937_64 generator(int head) const override {
    return std::mt19937_64(static_cast<std::uint64_t>(100 + head));
  }

 private:
  static std::vector<double> frequencies(int head_dim) {
    std::vector<double> inv_freq;
    for (int pair = 0; pair < head_dim / 2; ++pair) inv_freq.push_back(std::pow(100.0, -2.0 * pair / head_dim));
    return inv_freq;
  }
  /// [length] between 0 and 1.
  [[nodiscard]] std::vector<float> random_row(std::mt19937& generator) const {
    std::vector<float> row;
    for (int i = 0; i < shape_.length; ++i) row.push_back(static_cast<float>(generator() >> 8) * 0x1p-24F);
    return row;
  }
  [[nodiscard]] std::span<const std::int32_t> first_rows() const {
    return {rows_.data(), static_cast<std::size_t>(seen_)};
  }
  models::MatrixView gather(const std::vector<models::Matrix>& from, int head,
                            std::map<int, models::Matrix>& into) const {
    const models::Matrix& all = from[static_cast<std::size_t>(geometry_.kv_head_of(query_heads(head).first))];
    models::Matrix& rows = into[head];
    rows.resize(std::ssize(entries(head)), all.cols());
    for (Index i = 0; i < rows.rows(); ++i) rows.row(i) = all.row(entries(head)[static_cast<std::size_t>(i)]);
    return models::view(rows.data(), rows.rows(), rows.cols());
  }

  CacheShape shape_;
  models::Geometry geometry_;
  models::Rope rope_;
  Index seen_;
  std::vector<std::int32_t> rows_;
  mutable std::map<int, models::Matrix> gathered_keys_, gathered_values_, windows_;
  mutable std::map<int, std::vector<double>> accumulated_;
};

/// A future made of the rows of a CacheDouble, and of masses given.
class FutureDouble : public policies::FutureView {
 public:
  explicit FutureDouble(const CacheDouble& cache) : cache_(cache) {
    for (models::Index row = 0; row < length(); ++row) rows_.push_back(static_cast<std::int32_t>(row));
  }
  std::vector<std::vector<double>> masses;  ///< [query head] [prompt]

  [[nodiscard]] std::span<const double> future_mass(int query_head) const override {
    return masses[static_cast<std::size_t>(query_head)];
  }
  [[nodiscard]] models::Index length() const override { return cache_.all_keys[0].rows(); }
  [[nodiscard]] models::MatrixView keys(int kv_head) const override { return whole(cache_.all_keys, kv_head); }
  [[nodiscard]] models::MatrixView values(int kv_head) const override { return whole(cache_.all_values, kv_head); }
  [[nodiscard]] std::span<const std::int32_t> query_rows() const override { return rows_; }
  [[nodiscard]] models::MatrixView queries(int query_head) const override {
    return whole(cache_.all_queries, query_head);
  }

 private:
  static models::MatrixView whole(const std::vector<models::Matrix>& all, int head) {
    const models::Matrix& matrix = all[static_cast<std::size_t>(head)];
    return models::view(matrix.data(), matrix.rows(), matrix.cols());
  }
  const CacheDouble& cache_;
  std::vector<std::int32_t> rows_;
};

/// The step of the last token that a CacheDouble has seen.
class StepDouble : public policies::StepView {
 public:
  explicit StepDouble(const CacheDouble& cache) : cache_(cache) {
    for (int head = 0; head < cache.heads(); ++head) {
      const policies::QueryHeads group = cache.query_heads(head);
      for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
        const std::vector<double> weights = cache.attention_of(query_head, row(), cache.entries(head));
        weights_.emplace_back(weights.begin(), weights.end());
      }
    }
  }
  [[nodiscard]] const models::Geometry& geometry() const override { return cache_.geometry(); }
  [[nodiscard]] const models::Rope& rope() const override { return cache_.rope(); }
  [[nodiscard]] int layer() const override { return cache_.layer(); }
  [[nodiscard]] models::Index prompt_length() const override { return cache_.prompt_length(); }
  [[nodiscard]] models::Index seen() const override { return cache_.seen(); }
  [[nodiscard]] std::span<const std::int32_t> positions() const override { return cache_.positions(); }
  [[nodiscard]] int heads() const override { return cache_.heads(); }
  [[nodiscard]] policies::QueryHeads query_heads(int head) const override { return cache_.query_heads(head); }
  [[nodiscard]] std::span<const std::int32_t> entries(int head) const override { return cache_.entries(head); }
  [[nodiscard]] std::span<const float> channel(traces::Channel channel, int index) const override {
    return cache_.channel(channel, index);
  }
  [[nodiscard]] models::Index row() const override { return cache_.seen() - 1; }
  [[nodiscard]] std::span<const float> attention(int query_head) const override {
    return weights_[static_cast<std::size_t>(query_head)];
  }

 private:
  const CacheDouble& cache_;
  std::vector<std::vector<float>> weights_;
};

}  // namespace evictsim::tests

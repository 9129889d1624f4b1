// Do the float32 attention kernels give the softmax of the float64 reference, whatever is visible and however large the
// logits?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "models/attention.h"
#include "traces/error.h"

namespace {

using namespace evictsim::models;

Matrix random_matrix(std::mt19937_64& generator, Index rows, Index columns, double spread) {
  std::normal_distribution<double> normal(0, spread);
  Matrix matrix(rows, columns);
  for (Index i = 0; i < matrix.size(); ++i) matrix.data()[i] = static_cast<float>(normal(generator));
  return matrix;
}

MatrixView whole(const Matrix& matrix) { return view(matrix.data(), matrix.rows(), matrix.cols()); }

std::vector<std::int32_t> entries_of(const EntryRange& range) {
  std::vector<std::int32_t> entries(static_cast<std::size_t>(range.last - range.first));
  std::iota(entries.begin(), entries.end(), static_cast<std::int32_t>(range.first));
  return entries;
}

std::span<const float> row_of(const Matrix& matrix, Index row) {
  return {matrix.row(row).data(), static_cast<std::size_t>(matrix.cols())};
}

/// Compares every column of attend() with the reference; entries that are not visible must be exactly 0.
void check_columns(const Matrix& keys, const Matrix& queries, const std::vector<EntryRange>& visible,
                   const LogitRule& rule, double tolerance) {
  AttentionColumns columns;
  attend(whole(keys), queries, visible, rule, true, columns);
  AttentionColumns plain;
  attend(whole(keys), queries, visible, rule, false, plain);
  REQUIRE(columns.probability.rows() == keys.rows());
  REQUIRE(columns.probability.cols() == queries.rows());
  CHECK((columns.probability - plain.probability).cwiseAbs().maxCoeff() <= 1e-6F);
  double worst = 0;
  double worst_entropy = 0;
  bool finite = columns.probability.allFinite() && columns.surprise.allFinite();
  bool hidden_is_zero = true;
  for (Index c = 0; c < queries.rows(); ++c) {
    const EntryRange& range = visible[static_cast<std::size_t>(c)];
    const std::vector<std::int32_t> entries = entries_of(range);
    const std::vector<double> expected = reference_weights(row_of(queries, c), whole(keys), entries, rule);
    double entropy = 0;
    for (std::size_t i = 0; i < entries.size(); ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(columns.probability(entries[i], c)) - expected[i]));
      if (expected[i] > 0) entropy -= expected[i] * std::log(expected[i]);
    }
    worst_entropy = std::max(worst_entropy, std::abs(entropy + columns.surprise.col(c).cast<double>().sum()));
    for (Index j = 0; j < keys.rows(); ++j) {
      if (j >= range.first && j < range.last) continue;
      hidden_is_zero = hidden_is_zero && columns.probability(j, c) == 0 && columns.surprise(j, c) == 0 &&
                       plain.probability(j, c) == 0;
    }
  }
  CHECK(finite);
  CHECK(hidden_is_zero);
  CHECK(worst <= tolerance);
  CHECK(worst_entropy <= 20 * tolerance);
}

}  // namespace

TEST_CASE("what a row may see") {
  const std::vector<std::int32_t> positions = {0, 1, 5, 6, 7, 20};
  const auto range = [&](Index row, int window) {
    const EntryRange seen = visible_entries(positions, row, window);
    return std::vector<Index>{seen.first, seen.last};
  };
  CHECK(range(3, 0) == std::vector<Index>{0, 4});
  CHECK(range(3, 1) == std::vector<Index>{3, 4});
  CHECK(range(3, 2) == std::vector<Index>{2, 4});
  CHECK(range(3, 5) == std::vector<Index>{2, 4});
  CHECK(range(3, 6) == std::vector<Index>{1, 4});
  CHECK(range(5, 13) == std::vector<Index>{5, 6});
  CHECK(range(5, 14) == std::vector<Index>{4, 6});
  CHECK(range(0, 3) == std::vector<Index>{0, 1});
}

TEST_CASE("attention of random queries") {
  const Index entries = GENERATE(1, 2, 7, 33, 200);
  const Index columns = GENERATE(1, 3, 8, 19);
  const double softcap = GENERATE(0.0, 5.0, 50.0);
  std::mt19937_64 generator(static_cast<std::uint64_t>(entries * 100 + columns));
  const Matrix keys = random_matrix(generator, entries, 16, 1);
  const Matrix queries = random_matrix(generator, columns, 16, 3);
  std::vector<EntryRange> visible;
  for (Index c = 0; c < columns; ++c) {
    const Index last = 1 + static_cast<Index>(generator() % static_cast<std::uint64_t>(entries));
    visible.push_back({static_cast<Index>(generator() % static_cast<std::uint64_t>(last)), last});
  }
  check_columns(keys, queries, visible, {.scale = 0.25, .softcap = softcap}, 1e-5);
  check_columns(keys, queries, std::vector<EntryRange>(visible.size(), {0, entries}),
                {.scale = 0.25, .softcap = softcap}, 1e-5);
}

TEST_CASE("attention within a sliding window over positions with gaps") {
  std::mt19937_64 generator(3);
  std::vector<std::int32_t> positions;
  for (std::int32_t position = 0; positions.size() < 60; position += 1 + static_cast<std::int32_t>(generator() % 4)) {
    positions.push_back(position);
  }
  const int window = GENERATE(1, 5, 17, 1000);
  const Matrix keys = random_matrix(generator, 60, 8, 1);
  const Matrix queries = random_matrix(generator, 20, 8, 2);
  std::vector<EntryRange> visible;
  for (Index c = 0; c < 20; ++c) visible.push_back(visible_entries(positions, 40 + c, window));
  check_columns(keys, queries, visible, {.scale = 0.35, .softcap = 0}, 1e-5);
}

TEST_CASE("logits of ten thousand neither overflow nor lose their differences") {
  // Small whole numbers, so that float32 holds every logit exactly.
  std::mt19937_64 generator(4);
  Matrix keys(40, 2);
  for (Index j = 0; j < keys.rows(); ++j) {
    keys(j, 0) = j % 3 == 0 ? -100.0F : 100.0F;
    keys(j, 1) = static_cast<float>(generator() % 5);
  }
  const Matrix queries = (Matrix(3, 2) << 100, 1, -100, 0.5F, 100, -1).finished();
  check_columns(keys, queries, {{0, 40}, {5, 30}, {39, 40}}, {.scale = 1, .softcap = 0}, 1e-5);
}

TEST_CASE("logits of both signs and ten thousand") {
  Matrix keys(17, 1);
  for (Index j = 0; j < 17; ++j) keys(j, 0) = j % 2 == 0 ? 1.0F : -1.0F;
  const Matrix queries = (Matrix(9, 1) << 1e4, -1e4, 0, 1, -1, 100, -100, 87, -89).finished();
  check_columns(keys, queries, std::vector<EntryRange>(9, {0, 17}), {.scale = 1, .softcap = 0}, 1e-5);
  check_columns(keys, queries, std::vector<EntryRange>(9, {3, 12}), {.scale = 1, .softcap = 30}, 1e-5);
}

TEST_CASE("equal logits share evenly") {
  const Matrix keys = Matrix::Ones(50, 4);
  const Matrix queries = Matrix::Constant(8, 4, 3.0F);
  AttentionColumns columns;
  attend(whole(keys), queries, std::vector<EntryRange>(8, {10, 30}), {.scale = 1}, true, columns);
  for (Index c = 0; c < 8; ++c) {
    CHECK(columns.probability(10, c) == Approx(0.05));
    CHECK(columns.probability.col(c).minCoeff() == 0.0F);
    CHECK(columns.probability.col(c).sum() == Approx(1));
    CHECK(columns.surprise.col(c).sum() == Approx(-std::log(20)));
  }
}

TEST_CASE("a query that sees nothing gets a column of zeros") {
  std::mt19937_64 generator(5);
  const Matrix keys = random_matrix(generator, 12, 4, 1);
  const Matrix queries = random_matrix(generator, 9, 4, 1);
  std::vector<EntryRange> visible(9, {0, 12});
  visible[4] = {3, 3};
  AttentionColumns columns;
  attend(whole(keys), queries, visible, {.scale = 1}, true, columns);
  CHECK(columns.probability.col(4).isZero(0));
  CHECK(columns.surprise.col(4).isZero(0));
  CHECK(columns.probability.col(3).sum() == Approx(1));
}

TEST_CASE("the reference is a softmax and a mean") {
  const Matrix keys = (Matrix(3, 1) << 0, 1, 2).finished();
  const Matrix values = (Matrix(3, 2) << 1, 0, 5, 5, 0, 2).finished();
  const std::vector<float> query = {2};
  const std::vector<std::int32_t> entries = {0, 2};
  const std::vector<double> weights = reference_weights(query, whole(keys), entries, {.scale = 0.5, .softcap = 3});
  const double logit = 3 * std::tanh(2.0 / 3);
  CHECK(weights[1] == Approx(std::exp(logit) / (1 + std::exp(logit))));
  CHECK(weights[0] + weights[1] == Approx(1));
  const std::vector<double> output = reference_output(weights, whole(values), entries);
  CHECK(output[0] == Approx(weights[0]));
  CHECK(output[1] == Approx(2 * weights[1]));
}

TEST_CASE("accumulated attention is the sum of the rows' softmax") {
  const int group = GENERATE(1, 2, 3, 8);
  const Index count = GENERATE(1, 5, 64, 150);
  const int window = GENERATE(0, 9);
  const double softcap = GENERATE(0.0, 10.0);
  std::mt19937_64 generator(static_cast<std::uint64_t>(group * 1000 + count));
  std::vector<std::int32_t> positions(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<std::int32_t>(2 * i);
  const Matrix keys = random_matrix(generator, count, 8, 1);
  std::vector<Matrix> queries;
  std::vector<MatrixView> views;
  for (int g = 0; g < group; ++g) queries.push_back(random_matrix(generator, count, 8, 2));
  for (const Matrix& head : queries) views.push_back(whole(head));
  const LogitRule rule{.scale = 0.35, .softcap = softcap};
  const std::vector<double> start(static_cast<std::size_t>(count), 1.0);  // it adds to what is there
  std::vector<std::vector<double>> sums(static_cast<std::size_t>(group), start);
  accumulate_attention(whole(keys), views, positions, window, rule, sums);
  double worst = 0;
  for (int g = 0; g < group; ++g) {
    std::vector<double> expected = start;
    for (Index row = 0; row < count; ++row) {
      const std::vector<std::int32_t> entries = entries_of(visible_entries(positions, row, window));
      const auto weights =
          reference_weights(row_of(queries[static_cast<std::size_t>(g)], row), whole(keys), entries, rule);
      for (std::size_t i = 0; i < entries.size(); ++i) expected[static_cast<std::size_t>(entries[i])] += weights[i];
    }
    for (std::size_t j = 0; j < expected.size(); ++j) {
      // 1e-5 per row added.
      const double error = std::abs(sums[static_cast<std::size_t>(g)][j] - expected[j]) / std::max(1.0, expected[j]);
      worst = std::max(worst, error);
    }
  }
  CHECK(worst <= 1e-5);
}

TEST_CASE("logits beyond float32 are an error, not a wrong softmax") {
  const float sign = GENERATE(1.0F, -1.0F);
  Matrix keys = Matrix::Ones(11, 2);
  keys.row(4).setConstant(sign * 1e30F);
  const Matrix queries = Matrix::Constant(9, 2, 1e30F);
  AttentionColumns columns;
  const std::vector<EntryRange> visible(9, {0, 11});
  const bool with_surprise = GENERATE(true, false);
  if (sign > 0) {
    CHECK_THROWS_AS(attend(whole(keys), queries, visible, {.scale = 1}, with_surprise, columns), evictsim::Error);
  } else {
    // Infinitely far below the others: no weight, as in the reference.
    attend(whole(keys), queries, visible, {.scale = 1}, with_surprise, columns);
    CHECK(columns.probability(4, 0) == 0.0F);
    CHECK(columns.probability(3, 0) == Approx(0.1));
  }
}

// Are errors behind W_O, with and without a norm, those of a direct computation in double precision?
#include <catch2/catch.hpp>
#include <cmath>
#include <optional>
#include <random>
#include <vector>

#include "models/projection.h"

namespace {

using namespace evictsim::models;
using evictsim::traces::NormKind;

Matrix random_matrix(std::mt19937_64& generator, Index rows, Index columns) {
  std::normal_distribution<double> normal;
  Matrix matrix(rows, columns);
  for (Index i = 0; i < matrix.size(); ++i) matrix.data()[i] = static_cast<float>(normal(generator));
  return matrix;
}

std::optional<Norm> make_norm(std::mt19937_64& generator, NormKind kind, Index size) {
  Norm norm{.weight = {}, .kind = kind, .epsilon = 1e-3};
  std::normal_distribution<float> normal;
  for (Index i = 0; i < size; ++i) norm.weight.push_back(normal(generator));
  return norm;
}

/// norm(W_O x) in double.
Eigen::VectorXd direct(const Matrix& w_o, const std::optional<Norm>& norm, const Eigen::VectorXd& x) {
  Eigen::VectorXd y = w_o.cast<double>() * x;
  if (!norm) return y;
  if (norm->kind == NormKind::layer) y.array() -= y.mean();
  const double inverse = 1 / std::sqrt(y.squaredNorm() / static_cast<double>(y.size()) + norm->epsilon);
  for (Index i = 0; i < y.size(); ++i) {
    const double weight = static_cast<double>(norm->weight[static_cast<std::size_t>(i)]);
    y[i] *= inverse * (weight + (norm->kind == NormKind::rms_plus_one ? 1 : 0));
  }
  return y;
}

/// Checks both squared norms for three blocks of differences; `factor` says whether the factor must be in use.
void check(const Matrix& w_o, const std::optional<Norm>& norm, Index expected_rows, bool factor) {
  std::mt19937_64 generator(11);
  OutputProjection projection(w_o, norm);
  if (expected_rows > 0) projection.expect_rows(expected_rows);
  CHECK(projection.uses_factor() == factor);
  const Index rows = 4;
  const Matrix full = random_matrix(generator, rows, w_o.cols());
  Matrix difference = 0.1F * random_matrix(generator, 3 * rows, w_o.cols());
  for (const Index unchanged : {Index{1}, 2 * rows}) difference.row(unchanged).setZero();
  std::vector<double> output(static_cast<std::size_t>(rows));
  std::vector<double> error(static_cast<std::size_t>(3 * rows));
  projection.output_squared(full, output);
  projection.error_squared(full, difference, error);
  for (Index i = 0; i < 3 * rows; ++i) {
    const Eigen::VectorXd x = full.row(i % rows).cast<double>();
    const Eigen::VectorXd y = direct(w_o, norm, x);
    const Eigen::VectorXd moved = direct(w_o, norm, x + difference.row(i).transpose().cast<double>());
    if (i < rows) CHECK(output[static_cast<std::size_t>(i)] == Approx(y.squaredNorm()).epsilon(1e-5));
    CHECK(error[static_cast<std::size_t>(i)] == Approx((moved - y).squaredNorm()).epsilon(1e-4));
  }
  // Nothing changed: exactly zero, not rounding.
  projection.error_squared(full, Matrix::Zero(2 * rows, w_o.cols()),
                           std::span(error).first(static_cast<std::size_t>(2 * rows)));
  for (Index i = 0; i < 2 * rows; ++i) CHECK(error[static_cast<std::size_t>(i)] == 0.0);
}

}  // namespace

TEST_CASE("plain projection") {
  std::mt19937_64 generator(1);
  const Index height = GENERATE(5, 40, 96);  // below, at and above the width
  const Matrix w_o = random_matrix(generator, height, 40);
  check(w_o, std::nullopt, 0, false);
  check(w_o, std::nullopt, 1, false);  // too few rows to pay for a factor
  const OutputProjection projection(w_o, std::nullopt);
  const Matrix rows = random_matrix(generator, 3, 40);
  CHECK((projection.project(rows) - rows * w_o.transpose()).cwiseAbs().maxCoeff() < 1e-4F);
}

TEST_CASE("the triangular factor gives the same norms") {
  std::mt19937_64 generator(2);
  const Index width = GENERATE(8, 64, 100, 192);
  const Index height = width + static_cast<Index>(GENERATE(0, 37));
  check(random_matrix(generator, height, width), std::nullopt, 1000000, true);
}

TEST_CASE("a wide or rank-deficient W_O gives the same norms") {
  std::mt19937_64 generator(3);
  SECTION("fewer rows than columns: the factor is a trapezoid") {
    const Index height = GENERATE(1, 20, 63);
    check(random_matrix(generator, height, 64), std::nullopt, 1000000, true);
  }
  SECTION("columns of zeros") {
    Matrix w_o = random_matrix(generator, 64, 48);
    w_o.middleCols(10, 8).setZero();
    check(w_o, std::nullopt, 1000000, true);
  }
  SECTION("nothing but zeros") {
    OutputProjection projection(Matrix::Zero(24, 24), std::nullopt);
    projection.expect_rows(1000000);
    std::vector<double> squared(2);
    projection.output_squared(random_matrix(generator, 2, 24), squared);
    CHECK(squared == std::vector<double>{0, 0});
  }
  SECTION("columns that repeat, and slightly fewer rows than columns") {
    const bool repeat = GENERATE(true, false);
    Matrix w_o = random_matrix(generator, 60, 64);
    if (repeat) w_o.rightCols(16) = w_o.leftCols(16);
    OutputProjection projection(w_o, std::nullopt);
    projection.expect_rows(1000000);
    const Matrix rows = random_matrix(generator, 6, 64);
    std::vector<double> squared(6);
    projection.output_squared(rows, squared);
    for (Index i = 0; i < 6; ++i) {
      const Eigen::VectorXd x = rows.row(i).cast<double>();
      CHECK(squared[static_cast<std::size_t>(i)] == Approx((w_o.cast<double>() * x).squaredNorm()).epsilon(1e-5));
    }
  }
}

TEST_CASE("errors behind a norm") {
  std::mt19937_64 generator(4);
  const auto kind = GENERATE(NormKind::rms, NormKind::rms_plus_one, NormKind::layer);
  const Matrix w_o = random_matrix(generator, 50, 24);
  check(w_o, make_norm(generator, kind, 50), 0, false);
  check(w_o, make_norm(generator, kind, 50), 1000000, false);  // a norm needs the whole vector
}

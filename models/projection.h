#pragma once
/// \file
/// W_O: how far an error of the attention output moves the residual stream.

#include <optional>
#include <span>

#include "models/matrix.h"
#include "models/norm.h"
#include "models/packed_matrix.h"
#include "traces/header.h"

namespace evictsim::models {

/// The output projection of one layer. `rows` arguments are concatenated heads, [N, Hq*d].
class OutputProjection {
 public:
  /// `w_o` [D, Hq*d], columns h*d .. (h+1)*d - 1 belong to query head h.
  /// `norm`: between W_O and the residual stream (Gemma); errors after W_O are taken behind it.
  OutputProjection(Matrix w_o, std::optional<Norm> norm);

  /// Announces how many rows will go through `error_squared`. Where it pays, ||W_O x|| is then taken as ||R x|| with
  /// the triangular factor of W_O = Q R: half the products, same norm to a few 1e-7 of ||W_O|| ||x||.
  void expect_rows(Index rows);

  /// ||y||^2 with y = norm(W_O x), for every row x of `full`: out [N].
  void output_squared(const Matrix& full, std::span<double> out) const;

  /// ||y' - y||^2 with y' = norm(W_O (full + difference)), for every row of `difference`, whose rows are blocks of
  /// full.rows() rows, one after another: out [difference.rows()].
  void error_squared(const Matrix& full, const Matrix& difference, std::span<double> out) const;

  /// Announces the `directions` [k, D] of the residual stream along which `error_along` looks.
  void look_along(const Matrix& directions);

  /// directions (y' - y), with y' and y as in `error_squared`: [difference.rows(), k]. Needs `look_along`.
  [[nodiscard]] Matrix error_along(const Matrix& full, const Matrix& difference) const;

  /// W_O x for every row, before any norm: [N, D].
  [[nodiscard]] Matrix project(const Matrix& rows) const;
  [[nodiscard]] bool uses_factor() const { return uses_factor_; }

 private:
  /// y' - y behind the norm, [difference.rows(), D].
  [[nodiscard]] Matrix error_behind_norm(const Matrix& full, const Matrix& difference) const;

  Matrix w_o_;
  std::optional<Norm> norm_;
  PackedMatrix packed_;  ///< of W_O or its factor; unused behind a norm
  bool uses_factor_ = false;
  PackedMatrix along_;  ///< directions W_O; behind a norm the directions themselves
};

}  // namespace evictsim::models

#pragma once
/// \file
/// Rotary position embedding (RoFormer, arXiv 2104.09864) and its inverse, for both component layouts, any list of
/// frequencies and any factor on cos and sin.

#include <span>
#include <vector>

#include "traces/header.h"

namespace evictsim::models {

/// The rotation a model applies to q and k. Angles are taken in double precision.
class Rope {
 public:
  /// `inv_freq` [r/2] radians per position; `attention_scaling` multiplies cos and sin.
  Rope(traces::RopeLayout layout, std::vector<double> inv_freq, double attention_scaling = 1.0);
  static Rope of(const traces::Header& header);

  /// Rotates one head vector [head_dim >= r] to absolute `position`, in place; components from r on stay.
  void apply(std::span<float> head, double position) const;
  void apply(std::span<double> head, double position) const;
  /// Undoes `apply`: rotates back and divides by the attention scaling.
  void invert(std::span<float> head, double position) const;
  void invert(std::span<double> head, double position) const;

  [[nodiscard]] traces::RopeLayout layout() const { return layout_; }
  [[nodiscard]] const std::vector<double>& inv_freq() const { return inv_freq_; }
  [[nodiscard]] double attention_scaling() const { return attention_scaling_; }
  /// Components of pair i, 0 <= i < inv_freq().size().
  [[nodiscard]] std::size_t first_of_pair(std::size_t pair) const;
  [[nodiscard]] std::size_t second_of_pair(std::size_t pair) const;

 private:
  template <typename Real>
  void rotate(std::span<Real> head, double position, double direction, double factor) const;

  traces::RopeLayout layout_;
  std::vector<double> inv_freq_;
  double attention_scaling_;
};

}  // namespace evictsim::models

#pragma once
/// \file
/// The norm of the summed error of all layers over the norm of the final residual stream: a predictor of damage that
/// needs no weights (docs/damage.md).

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sim/replay/replay.h"

namespace evictsim::analysis {

/// Sums over layers of W_O dO, looked at along the replay's directions, for every point and summed row of a sequence.
/// Layers may come in any order, from threads as they please: sums are of whole numbers, which no order changes.
/// Memory: 8 bytes for every point, summed row and direction.
class SummedErrors {
 public:
  SummedErrors() = default;
  SummedErrors(const sim::SequenceStart& start, std::size_t points);

  void add(const sim::LayerBlock& block);
  /// mean_t | sum_l (y'_l - y_l)(t) | / | x_final(t) | over the rows that every layer evaluated. NaN where there are
  /// none, or a layer moves the stream by more than 4096 times its own length.
  [[nodiscard]] double mean(std::size_t point) const;

 private:
  struct PointSums {
    std::vector<std::int64_t> sums;    ///< [S, k] in units of `unit` of the row's final norm
    std::vector<std::int32_t> layers;  ///< [S] that came in
    bool out_of_range = false;
  };

  std::vector<std::int32_t> rows_;
  std::vector<double> norms_;
  std::size_t layer_count_ = 0;
  std::vector<PointSums> points_;
};

}  // namespace evictsim::analysis

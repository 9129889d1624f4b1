#pragma once
/// \file
/// The norms of a transformer block: RMS, RMS with weight + 1 (Gemma), layer norm.

#include <vector>

#include "models/matrix.h"
#include "traces/header.h"

namespace evictsim::models {

struct Norm {
  std::vector<float> weight;  ///< [D]
  traces::NormKind kind = traces::NormKind::rms;
  double epsilon = 1e-6;

  /// The kind and epsilon that a trace names, with its defaults.
  static Norm of(const traces::Header& header, std::vector<float> weight);
  /// Applies it to every row, in place: [N, D].
  void apply(Matrix& rows) const;
};

}  // namespace evictsim::models

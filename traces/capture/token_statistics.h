#pragma once
/// \file
/// Entropy and log-probabilities of next-token distributions, reduced while capturing: a row of logits is far larger
/// than everything else a token leaves behind.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace evictsim::traces::capture {

/// Sizes of the truncated entropies, `entropy_top` in docs/trace-format.md.
inline constexpr std::array<std::size_t, 3> entropy_tops = {128, 256, 512};

/// One next-token distribution.
struct Distribution {
  double entropy = 0;                   ///< nats
  std::array<double, 3> entropy_top{};  ///< over the most probable tokens, not renormalised
  double log_normaliser = 0;            ///< log of the sum of exponentials: log p(i) = logits[i] - log_normaliser
  std::int32_t most_probable = 0;       ///< the lowest index among equals
};

/// Reduces rows of logits. Keeps its scratch memory between rows.
class DistributionReducer {
 public:
  /// `logits` [vocab], finite, or -infinity for a token that cannot come. Sums run in double precision.
  Distribution reduce(std::span<const float> logits);

 private:
  std::vector<float> largest_;
};

}  // namespace evictsim::traces::capture

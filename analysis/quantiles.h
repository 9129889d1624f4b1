#pragma once
/// \file
/// Quantiles of many values in bounded memory, whatever the order in which they come.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace evictsim::analysis {

/// Collects values >= 0. Up to `exact_limit` values quantiles are exact; beyond, values are counted in bins that divide
/// every power of two into 512, so that a value is known to 0.1 % of itself (for normal float32 numbers). At most
/// 512 KiB; the result depends on the values alone, not on their order. Negative values count as 0.
class Quantiles {
 public:
  static constexpr std::size_t exact_limit = 65536;

  void add(std::span<const float> values);
  [[nodiscard]] std::uint64_t count() const { return count_; }
  /// Quantile for 0 <= share <= 1 with linear interpolation between neighbours, as numpy's default; NaN without values.
  [[nodiscard]] double at(double share) const;

 private:
  void count_in_bin(std::uint32_t bits);
  [[nodiscard]] double order_statistic(std::uint64_t rank) const;

  std::uint64_t count_ = 0;
  // Bit patterns of non-negative floats sort as the floats do. Reading a quantile reorders them.
  mutable std::vector<std::uint32_t> exact_;
  std::vector<std::uint64_t> bins_;
  std::uint32_t first_bin_ = 0;
};

}  // namespace evictsim::analysis

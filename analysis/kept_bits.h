#pragma once
/// \file
/// Which cache heads keep which entries of a prompt.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace evictsim::analysis {

/// Bit `entry % 8` of byte `entry / 8` of each row.
struct KeptBits {
  std::size_t layers = 0, heads = 0, entries = 0;
  std::vector<std::uint8_t> bytes;  ///< [layers, heads, (entries + 7) / 8]

  [[nodiscard]] std::size_t row_bytes() const { return (entries + 7) / 8; }
  [[nodiscard]] bool test(std::size_t row, std::size_t entry) const {
    return (bytes[row * row_bytes() + entry / 8] >> entry % 8 & 1U) != 0;
  }
  void set(std::size_t row, std::size_t entry) {
    bytes[row * row_bytes() + entry / 8] |= static_cast<std::uint8_t>(1U << entry % 8);
  }
};

}  // namespace evictsim::analysis

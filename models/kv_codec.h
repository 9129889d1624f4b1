#pragma once
/// \file
/// Lossy codes of keys and values, in as many bytes as they say: every code is written to bytes and read back.
/// Shared tables (levels, directions, thresholds) are held once per layer or head; `shared_bytes` counts them.

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "models/matrix.h"

namespace evictsim::models {

/// Bytes of `count` codes of `bits` bits each, padded with zeros to whole bytes.
[[nodiscard]] constexpr Index packed_bytes(Index count, int bits) { return (count * bits + 7) / 8; }
/// Appends codes below 2^bits (1 <= bits <= 16), the lowest bit first.
void pack_codes(std::span<const std::uint32_t> codes, int bits, std::vector<std::uint8_t>& bytes);
/// The first `count` codes of `bytes`.
std::vector<std::uint32_t> unpack_codes(std::span<const std::uint8_t> bytes, Index count, int bits);

/// Evenly spaced levels from the least to the largest number of a group (KIVI, arXiv 2402.02750):
/// zero = min, scale = (max - min) / (2^bits - 1), both stored as float16; code = round((x - zero) / scale), clamped,
/// half to even.
struct UniformCodec {
  int bits = 2;  ///< 1 .. 16

  /// Of a group of `count` numbers: zero, scale and packed codes.
  [[nodiscard]] Index bytes(Index count) const { return 4 + packed_bytes(count, bits); }
  void encode(std::span<const float> numbers, std::vector<std::uint8_t>& bytes) const;
  void decode(std::span<const std::uint8_t> bytes, std::span<float> numbers) const;
};

/// `count` levels for `numbers` by one-dimensional k-means: starts at evenly spaced quantiles, at most 50 rounds of
/// Lloyd's algorithm; ascending. Of equal distance the lower level is nearest. Deterministic.
std::vector<float> kmeans_levels(std::vector<float> numbers, int count);

/// Levels anywhere, and numbers that they fit badly kept beside them (KVQuant, arXiv 2401.18079). A number is moved and
/// scaled to [-1, 1] by the bounds of its place before it takes the nearest level.
class NonuniformCodec {
 public:
  /// `levels` in [-1, 1], 2^bits of them.
  NonuniformCodec(int bits, std::vector<float> levels);

  /// Appends packed codes, the number of outliers (16 bits), and 16 bits each for the place and the value of every
  /// outlier. `lower` and `upper` [count]; `outliers` are places, ascending. Numbers beyond their bounds that are no
  /// outliers take the outermost levels.
  void encode(std::span<const float> numbers, std::span<const float> lower, std::span<const float> upper,
              std::span<const Index> outliers, std::vector<std::uint8_t>& bytes) const;
  void decode(std::span<const std::uint8_t> bytes, std::span<const float> lower, std::span<const float> upper,
              std::span<float> numbers) const;
  [[nodiscard]] Index bytes(Index count, Index outliers) const { return packed_bytes(count, bits_) + 2 + 4 * outliers; }
  [[nodiscard]] Index shared_bytes() const { return 2 * static_cast<Index>(levels_.size()); }

 private:
  int bits_;
  std::vector<float> levels_;
};

/// Records of fixed size: the vector's norm (float32), and the components of its direction along chosen orthonormal
/// axes, each rounded to one of 2^b evenly spaced levels, the best such levels of a normal distribution (Max, 1960).
class DirectionCodec {
 public:
  /// Random axes: a rotation where the record holds a bit or more for each of `dimension` components, else as many
  /// one-bit components as it holds (a sign sketch). `record` bytes, at least 5.
  static DirectionCodec random(Index dimension, Index record, std::mt19937_64 generator);
  /// The principal axes of `sample` [n, dimension] (rows scaled to norm 1, not centred), four bits each while the
  /// record holds no more.
  static DirectionCodec principal(const Matrix& sample, Index record);

  [[nodiscard]] Index bytes() const { return record_; }
  /// Axes and spreads as float32; random axes need their seed only.
  [[nodiscard]] Index shared_bytes() const { return shared_; }
  [[nodiscard]] int bits() const { return bits_; }
  [[nodiscard]] Index components() const { return axes_.rows(); }
  /// Appends exactly `bytes()`.
  void encode(std::span<const float> vector, std::vector<std::uint8_t>& record) const;
  void decode(std::span<const std::uint8_t> record, std::span<float> vector) const;

 private:
  MatrixDouble axes_;           ///< [components, dimension], orthonormal rows
  std::vector<double> spread_;  ///< expected size of each component
  Index record_ = 0;
  Index shared_ = 0;
  int bits_ = 1;
};

}  // namespace evictsim::models

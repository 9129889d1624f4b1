#pragma once
/// \file
/// The inner loop of float32 matrix products, for callers that keep one factor in the order it reads it. Eigen's
/// products pack both factors at every call, write the product and cannot leave out a triangle. Internal.

#include "models/matrix.h"

namespace evictsim::models {

// Eigen's names for the widest vector of floats that the build targets.
using Packet = Eigen::internal::packet_traits<float>::type;
inline constexpr Index packet_floats = Eigen::internal::packet_traits<float>::size;

/// Size of a block of sums: 12 of the 16 registers that a processor has at least.
inline constexpr Index block_rows = 6;
inline constexpr Index block_columns = 2 * packet_floats;

/// sums[i][c] += left(i, k) * right[k * block_columns + c] over k = 0 .. depth - 1 in that order, for i < block_rows
/// and c < block_columns; `fresh` starts from 0 instead. Rows of `sums` are `stride` floats apart.
template <typename Left>
void add_products(const Left& left, const float* right, Index depth, bool fresh, float* sums, Index stride) {
  namespace simd = Eigen::internal;
  Packet low[block_rows];
  Packet high[block_rows];
  for (Index i = 0; i < block_rows; ++i) {
    low[i] = fresh ? simd::pset1<Packet>(0.0F) : simd::ploadu<Packet>(sums + i * stride);
    high[i] = fresh ? simd::pset1<Packet>(0.0F) : simd::ploadu<Packet>(sums + i * stride + packet_floats);
  }
  for (Index k = 0; k < depth; ++k, right += block_columns) {
    const Packet first = simd::ploadu<Packet>(right);
    const Packet second = simd::ploadu<Packet>(right + packet_floats);
#pragma GCC unroll 6
    for (Index i = 0; i < block_rows; ++i) {
      const Packet factor = simd::pset1<Packet>(left(i, k));
      low[i] = simd::pmadd(factor, first, low[i]);
      high[i] = simd::pmadd(factor, second, high[i]);
    }
  }
  for (Index i = 0; i < block_rows; ++i) {
    simd::pstoreu(sums + i * stride, low[i]);
    simd::pstoreu(sums + i * stride + packet_floats, high[i]);
  }
}

}  // namespace evictsim::models

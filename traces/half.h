#pragma once
/// \file
/// float32 <-> IEEE float16 and bfloat16, rounded to nearest, ties to even. NaN stays NaN (made quiet, sign kept),
/// subnormals are exact, overflow gives infinity. The scalar functions are inline because CUDA kernels use them too.
/// The bulk functions use F16C where the build has it and give the same bits as the scalar ones everywhere.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "traces/host_device.h"

namespace evictsim::traces {

namespace float_format {

inline constexpr std::uint32_t sign_bit = 0x80000000U;
inline constexpr std::uint32_t infinity_bits = 0x7f800000U;

EVICTSIM_HOST_DEVICE inline std::uint32_t bits_of(float value) noexcept {
  std::uint32_t bits = 0;
  memcpy(&bits, &value, sizeof bits);  // std::bit_cast is no device function
  return bits;
}

EVICTSIM_HOST_DEVICE inline float float_of(std::uint32_t bits) noexcept {
  float value = 0;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/// `value` >> `shift`, rounded to nearest, ties to even; 1 <= shift <= 31.
EVICTSIM_HOST_DEVICE inline std::uint32_t shift_to_nearest_even(std::uint32_t value, std::uint32_t shift) noexcept {
  const std::uint32_t half = 1U << (shift - 1);
  const std::uint32_t odd = (value >> shift) & 1U;
  return (value + (half - 1) + odd) >> shift;
}

}  // namespace float_format

/// Nearest float16 of `value`, as its bits.
EVICTSIM_HOST_DEVICE inline std::uint16_t float_to_half(float value) noexcept {
  const std::uint32_t bits = float_format::bits_of(value);
  const std::uint32_t sign = (bits & float_format::sign_bit) >> 16;
  const std::uint32_t magnitude = bits & ~float_format::sign_bit;
  if (magnitude > float_format::infinity_bits) {
    return static_cast<std::uint16_t>(sign | 0x7e00U | ((magnitude >> 13) & 0x3ffU));
  }
  const std::uint32_t exponent = magnitude >> 23;
  if (exponent >= 113) {  // 2^-14, the smallest normal float16, and above
    // A carry out of the mantissa walks into the exponent, which is what rounding up to the next binade means.
    const std::uint32_t rounded = float_format::shift_to_nearest_even(magnitude - (112U << 23), 13);
    return static_cast<std::uint16_t>(sign | (rounded >= 0x7c00U ? 0x7c00U : rounded));
  }
  // Subnormal float16 count units of 2^-24; below half a unit everything rounds to zero.
  if (exponent < 102) return static_cast<std::uint16_t>(sign);
  const std::uint32_t mantissa = (magnitude & 0x7fffffU) | 0x800000U;
  return static_cast<std::uint16_t>(sign | float_format::shift_to_nearest_even(mantissa, 126 - exponent));
}

/// Value of a float16 given as bits; exact.
EVICTSIM_HOST_DEVICE inline float half_to_float(std::uint16_t bits) noexcept {
  const std::uint32_t sign = (bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fU;
  const std::uint32_t mantissa = bits & 0x3ffU;
  if (exponent == 0x1f) {
    const std::uint32_t quiet = mantissa != 0 ? 0x400000U : 0U;
    return float_format::float_of(sign | float_format::infinity_bits | quiet | (mantissa << 13));
  }
  if (exponent != 0) return float_format::float_of(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
  return float_format::float_of(sign | float_format::bits_of(magnitude));
}

/// Nearest bfloat16 of `value`, as its bits.
EVICTSIM_HOST_DEVICE inline std::uint16_t float_to_bfloat(float value) noexcept {
  const std::uint32_t bits = float_format::bits_of(value);
  if ((bits & ~float_format::sign_bit) > float_format::infinity_bits) {
    return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  }
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

/// Value of a bfloat16 given as bits; exact.
EVICTSIM_HOST_DEVICE inline float bfloat_to_float(std::uint16_t bits) noexcept {
  std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  if ((wide & ~float_format::sign_bit) > float_format::infinity_bits) wide |= 0x400000U;
  return float_format::float_of(wide);
}

/// The same for `count` elements; source and destination may not overlap.
void floats_to_halves(const float* source, std::uint16_t* destination, std::size_t count) noexcept;
void floats_to_bfloats(const float* source, std::uint16_t* destination, std::size_t count) noexcept;
/// Also tells whether all of them are finite, since that costs nothing while they are at hand.
bool halves_to_floats(const std::uint16_t* source, float* destination, std::size_t count) noexcept;
bool bfloats_to_floats(const std::uint16_t* source, float* destination, std::size_t count) noexcept;

}  // namespace evictsim::traces

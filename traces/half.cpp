#include "traces/half.h"

#include <algorithm>
#include <bit>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace evictsim::traces {
namespace {

constexpr std::uint32_t sign_bit = 0x80000000U;
constexpr std::uint32_t infinity_bits = 0x7f800000U;

/// `value` >> `shift`, rounded to nearest, ties to even; 1 <= shift <= 31.
constexpr std::uint32_t shift_to_nearest_even(std::uint32_t value, std::uint32_t shift) {
  const std::uint32_t half = 1U << (shift - 1);
  const std::uint32_t odd = (value >> shift) & 1U;
  return (value + (half - 1) + odd) >> shift;
}

}  // namespace

std::uint16_t float_to_half(float value) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits & sign_bit) >> 16;
  const std::uint32_t magnitude = bits & ~sign_bit;
  if (magnitude > infinity_bits) {
    return static_cast<std::uint16_t>(sign | 0x7e00U | ((magnitude >> 13) & 0x3ffU));
  }
  const std::uint32_t exponent = magnitude >> 23;
  if (exponent >= 113) {  // 2^-14, the smallest normal float16, and above
    // A carry out of the mantissa walks into the exponent, which is what rounding up to the next binade means.
    const std::uint32_t rounded = shift_to_nearest_even(magnitude - (112U << 23), 13);
    return static_cast<std::uint16_t>(sign | (rounded >= 0x7c00U ? 0x7c00U : rounded));
  }
  // Subnormal float16 count units of 2^-24; below half a unit everything rounds to zero.
  if (exponent < 102) return static_cast<std::uint16_t>(sign);
  const std::uint32_t mantissa = (magnitude & 0x7fffffU) | 0x800000U;
  return static_cast<std::uint16_t>(sign | shift_to_nearest_even(mantissa, 126 - exponent));
}

float half_to_float(std::uint16_t bits) noexcept {
  const std::uint32_t sign = (bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fU;
  std::uint32_t mantissa = bits & 0x3ffU;
  if (exponent == 0x1f) {
    const std::uint32_t quiet = mantissa != 0 ? 0x400000U : 0U;
    return std::bit_cast<float>(sign | infinity_bits | quiet | (mantissa << 13));
  }
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

std::uint16_t float_to_bfloat(float value) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & ~sign_bit) > infinity_bits) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

float bfloat_to_float(std::uint16_t bits) noexcept {
  std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  if ((wide & ~sign_bit) > infinity_bits) wide |= 0x400000U;
  return std::bit_cast<float>(wide);
}

void floats_to_halves(const float* source, std::uint16_t* destination, std::size_t count) noexcept {
  std::size_t index = 0;
#if defined(__F16C__)
  for (; index + 8 <= count; index += 8) {
    const __m128i packed = _mm256_cvtps_ph(_mm256_loadu_ps(source + index), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(destination + index), packed);
  }
#endif
  for (; index < count; ++index) destination[index] = float_to_half(source[index]);
}

void floats_to_bfloats(const float* source, std::uint16_t* destination, std::size_t count) noexcept {
  for (std::size_t index = 0; index < count; ++index) destination[index] = float_to_bfloat(source[index]);
}

bool halves_to_floats(const std::uint16_t* source, float* destination, std::size_t count) noexcept {
  constexpr std::uint16_t infinity = 0x7c00U;
  bool finite = true;
  std::size_t index = 0;
#if defined(__F16C__) && defined(__AVX2__)
  const __m256i magnitude = _mm256_set1_epi16(0x7fff);
  __m256i largest = _mm256_setzero_si256();
  for (; index + 16 <= count; index += 16) {
    const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + index));
    largest = _mm256_max_epi16(largest, _mm256_and_si256(packed, magnitude));
    _mm256_storeu_ps(destination + index, _mm256_cvtph_ps(_mm256_castsi256_si128(packed)));
    _mm256_storeu_ps(destination + index + 8, _mm256_cvtph_ps(_mm256_extracti128_si256(packed, 1)));
  }
  const __m256i beyond = _mm256_cmpgt_epi16(largest, _mm256_set1_epi16(infinity - 1));
  finite = _mm256_testz_si256(beyond, beyond) != 0;
#endif
  for (; index < count; ++index) {
    destination[index] = half_to_float(source[index]);
    finite &= (source[index] & 0x7fffU) < infinity;
  }
  return finite;
}

bool bfloats_to_floats(const std::uint16_t* source, float* destination, std::size_t count) noexcept {
  constexpr std::uint16_t infinity = 0x7f80U;
  std::uint16_t largest = 0;
  for (std::size_t index = 0; index < count; ++index) {
    destination[index] = bfloat_to_float(source[index]);
    largest = std::max(largest, static_cast<std::uint16_t>(source[index] & 0x7fffU));
  }
  return largest < infinity;
}

}  // namespace evictsim::traces

#include "traces/half.h"

#include <algorithm>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace evictsim::traces {

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

#pragma once
/// \file
/// Sixteen bytes read at once, the widest load that a CUDA thread makes.

#include <cstdint>

#include "traces/capture/cuda/element.h"

#if defined(__CUDA_ARCH__)
#define EVICTSIM_UNROLL _Pragma("unroll")
#else
#define EVICTSIM_UNROLL
#endif

namespace evictsim::traces::capture {

struct alignas(16) Pack {
  std::uint32_t words[4];
};

/// Elements of a pack.
EVICTSIM_HOST_DEVICE constexpr int pack_elements(ElementType type) noexcept {
  if (type == ElementType::f32) return 4;
  return type == ElementType::f16 || type == ElementType::bf16 ? 8 : 16;
}

/// The elements of a pack as float32, in their order in memory (little endian).
template <ElementType type>
struct Unpacked {
  float of[static_cast<std::size_t>(pack_elements(type))];

  EVICTSIM_HOST_DEVICE explicit Unpacked(const Pack& pack) noexcept {
    constexpr int per_word = pack_elements(type) / 4;
    EVICTSIM_UNROLL
    for (int i = 0; i < pack_elements(type); ++i)
      of[i] = value_of(pack.words[i / per_word] >> (32 / per_word * (i % per_word)));
  }

 private:
  /// The element in the lowest bits.
  EVICTSIM_HOST_DEVICE static float value_of(std::uint32_t bits) noexcept {
    if constexpr (type == ElementType::f32) return float_format::float_of(bits);
    if constexpr (type == ElementType::bf16) return float_format::float_of(bits << 16);
    if constexpr (type == ElementType::fp8_e4m3) return fp8_e4m3_to_float(static_cast<std::uint8_t>(bits));
    if constexpr (type == ElementType::fp8_e5m2) return fp8_e5m2_to_float(static_cast<std::uint8_t>(bits));
    if constexpr (type == ElementType::f16) {
#if defined(__CUDA_ARCH__)
      float value = 0;  // one instruction; the software conversion would cost more than reading the memory
      asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<unsigned short>(bits)));
      return value;
#else
      return half_to_float(static_cast<std::uint16_t>(bits));
#endif
    }
  }
};

}  // namespace evictsim::traces::capture

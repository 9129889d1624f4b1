#pragma once
/// \file
/// Number formats of device tensors, read as float32 and written with round to nearest even, on host and device alike.

#include <cstddef>
#include <cstdint>

#include "traces/half.h"
#include "traces/host_device.h"

namespace evictsim::traces::capture {

/// Formats of captured tensors; the first three may also be stored. The float8 ones follow arXiv:2209.05433 (E4M3 has
/// no infinity and one NaN magnitude); their `fnuz` cousins have other values and are not read.
enum class ElementType : std::uint8_t { f32, f16, bf16, fp8_e4m3, fp8_e5m2 };

EVICTSIM_HOST_DEVICE inline std::size_t element_bytes(ElementType type) noexcept {
  if (type == ElementType::f32) return 4;
  return type == ElementType::f16 || type == ElementType::bf16 ? 2 : 1;
}

/// Value of a float8 with 4 exponent and 3 mantissa bits; exact.
EVICTSIM_HOST_DEVICE inline float fp8_e4m3_to_float(std::uint8_t bits) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x80U) << 24;
  const std::uint32_t exponent = (bits >> 3) & 0xfU;
  const std::uint32_t mantissa = bits & 0x7U;
  if ((bits & 0x7fU) == 0x7fU) return float_format::float_of(sign | float_format::infinity_bits | 0x400000U);
  if (exponent != 0) return float_format::float_of(sign | ((exponent + 120) << 23) | (mantissa << 20));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-9F;
  return float_format::float_of(sign | float_format::bits_of(magnitude));
}

/// Value of a float8 with 5 exponent and 2 mantissa bits: the upper byte of a float16; exact.
EVICTSIM_HOST_DEVICE inline float fp8_e5m2_to_float(std::uint8_t bits) noexcept {
  return half_to_float(static_cast<std::uint16_t>(bits << 8));
}

/// Value of element `index` of an array of `type`, aligned to its elements.
EVICTSIM_HOST_DEVICE inline float load_element(const void* data, ElementType type, std::int64_t index) noexcept {
  switch (type) {
    case ElementType::f32:
      return static_cast<const float*>(data)[index];
    case ElementType::f16:
      return half_to_float(static_cast<const std::uint16_t*>(data)[index]);
    case ElementType::bf16:
      return bfloat_to_float(static_cast<const std::uint16_t*>(data)[index]);
    case ElementType::fp8_e4m3:
      return fp8_e4m3_to_float(static_cast<const std::uint8_t*>(data)[index]);
    case ElementType::fp8_e5m2:
      return fp8_e5m2_to_float(static_cast<const std::uint8_t*>(data)[index]);
  }
  return 0;
}

/// Writes `value` as element `index`; `type` is f32, f16 or bf16.
EVICTSIM_HOST_DEVICE inline void store_element(void* data, ElementType type, std::int64_t index, float value) noexcept {
  if (type == ElementType::f32) {
    static_cast<float*>(data)[index] = value;
  } else if (type == ElementType::f16) {
    static_cast<std::uint16_t*>(data)[index] = float_to_half(value);
  } else {
    static_cast<std::uint16_t*>(data)[index] = float_to_bfloat(value);
  }
}

}  // namespace evictsim::traces::capture

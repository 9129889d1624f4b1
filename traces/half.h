#pragma once
/// \file
/// float32 <-> IEEE float16 and bfloat16, rounded to nearest, ties to even. NaN stays NaN (made quiet, sign kept),
/// subnormals are exact, overflow gives infinity. The bulk functions use F16C where the build has it and give the
/// same bits as the scalar ones everywhere.

#include <cstddef>
#include <cstdint>

namespace evictsim::traces {

/// Nearest float16 of `value`, as its bits.
std::uint16_t float_to_half(float value) noexcept;
/// Value of a float16 given as bits; exact.
float half_to_float(std::uint16_t bits) noexcept;
/// Nearest bfloat16 of `value`, as its bits.
std::uint16_t float_to_bfloat(float value) noexcept;
/// Value of a bfloat16 given as bits; exact.
float bfloat_to_float(std::uint16_t bits) noexcept;

/// The same for `count` elements; source and destination may not overlap.
void floats_to_halves(const float* source, std::uint16_t* destination, std::size_t count) noexcept;
void floats_to_bfloats(const float* source, std::uint16_t* destination, std::size_t count) noexcept;
/// Also tells whether all of them are finite, since that costs nothing while they are at hand.
bool halves_to_floats(const std::uint16_t* source, float* destination, std::size_t count) noexcept;
bool bfloats_to_floats(const std::uint16_t* source, float* destination, std::size_t count) noexcept;

}  // namespace evictsim::traces

// Are float16 and bfloat16 converted exactly, and rounded to nearest even, for every pattern?
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <vector>

#include "traces/half.h"

using namespace evictsim::traces;

namespace {

struct Format {
  int exponent_bits, mantissa_bits;
};
constexpr Format half_format{5, 10};
constexpr Format bfloat_format{8, 7};

/// The value by the definition of IEEE formats, in double, which holds it exactly.
double value_of(std::uint32_t bits, Format format) {
  const int bias = (1 << (format.exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> format.mantissa_bits) & ((1 << format.exponent_bits) - 1);
  const double mantissa = static_cast<double>(bits & ((1U << format.mantissa_bits) - 1));
  const double sign = (bits & 0x8000U) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << format.exponent_bits) - 1) return mantissa == 0 ? sign * INFINITY : NAN;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - format.mantissa_bits);
  return sign * std::ldexp(mantissa + std::ldexp(1.0, format.mantissa_bits), exponent - bias - format.mantissa_bits);
}

bool same(float left, double right) {
  if (std::isnan(right)) return std::isnan(left);
  return static_cast<double>(left) == right && std::signbit(left) == std::signbit(right);
}

template <typename ToFloat>
int wrong_values(ToFloat to_float, Format format) {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    wrong += !same(to_float(static_cast<std::uint16_t>(bits)), value_of(bits, format));
  }
  return wrong;
}

/// Between neighbours `low` and low + 1: the midpoint goes to the even one, and its two float neighbours to the nearer.
template <typename ToBits>
int wrong_roundings(ToBits to_bits, Format format) {
  int wrong = 0;
  const std::uint32_t infinity = ((1U << format.exponent_bits) - 1) << format.mantissa_bits;
  for (std::uint32_t low = 0; low < infinity; ++low) {
    // The step above the largest finite value leads to infinity as if the exponent had one more value.
    const double first = value_of(low, format);
    const double step = low + 1 < infinity ? value_of(low + 1, format) - first : first - value_of(low - 1, format);
    const auto middle = static_cast<float>(first + step / 2);
    for (const std::uint32_t sign : {0U, 0x8000U}) {
      const float direction = sign != 0 ? -1.0F : 1.0F;
      const auto check = [&](float magnitude, std::uint32_t expected) {
        wrong += to_bits(direction * magnitude) != (sign | expected);
      };
      check(static_cast<float>(first), low);
      check(middle, low % 2 == 0 ? low : low + 1);
      check(std::nextafter(middle, 0.0F), low);
      check(std::nextafter(middle, INFINITY), low + 1);
    }
  }
  return wrong;
}

}  // namespace

TEST_CASE("every float16 and bfloat16 pattern has its exact value") {
  CHECK(wrong_values(half_to_float, half_format) == 0);
  CHECK(wrong_values(bfloat_to_float, bfloat_format) == 0);
}

TEST_CASE("rounding is to nearest, ties to even, for every pattern and its rounding neighbours") {
  CHECK(wrong_roundings(float_to_half, half_format) == 0);
  CHECK(wrong_roundings(float_to_bfloat, bfloat_format) == 0);
}

TEST_CASE("NaN stays NaN with its sign, and large values become infinite") {
  for (const std::uint32_t payload : {0x1U, 0x1000U, 0x2000U, 0x400000U, 0x7fffffU}) {
    for (const std::uint32_t sign : {0U, 0x80000000U}) {
      const auto nan = std::bit_cast<float>(sign | 0x7f800000U | payload);
      CHECK(std::isnan(half_to_float(float_to_half(nan))));
      CHECK(std::isnan(bfloat_to_float(float_to_bfloat(nan))));
      CHECK((float_to_half(nan) >> 15) == (sign >> 31));
      CHECK((float_to_bfloat(nan) >> 15) == (sign >> 31));
    }
  }
  CHECK(float_to_half(65519.996F) == 0x7bff);
  CHECK(float_to_half(65520.0F) == 0x7c00);
  CHECK(float_to_half(-INFINITY) == 0xfc00);
  CHECK(float_to_half(3e38F) == 0x7c00);
  CHECK(float_to_bfloat(3.4028235e38F) == 0x7f80);
  CHECK(float_to_half(std::ldexp(1.0F, -25)) == 0);
  CHECK(float_to_half(std::ldexp(1.5F, -25)) == 1);
  CHECK(float_to_half(std::ldexp(1.0F, -149)) == 0);
}

TEST_CASE("bulk conversion gives the bits of the scalar one at any length") {
  std::vector<std::uint16_t> patterns(65536);
  std::vector<float> values;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    patterns[bits] = static_cast<std::uint16_t>(bits);
    for (const std::uint32_t low : {0x0000U, 0x0fffU, 0x1000U, 0x1001U, 0x7fffU, 0x8000U, 0x8001U}) {
      values.push_back(std::bit_cast<float>((bits << 16) | low));
    }
  }
  std::vector<float> widened(65536);
  std::vector<std::uint16_t> narrowed(values.size());
  int wrong = 0;
  const auto differs = [](float left, float right) {
    return std::bit_cast<std::uint32_t>(left) != std::bit_cast<std::uint32_t>(right);
  };
  halves_to_floats(patterns.data(), widened.data(), widened.size());
  for (std::size_t index = 0; index < 65536; ++index) wrong += differs(widened[index], half_to_float(patterns[index]));
  bfloats_to_floats(patterns.data(), widened.data(), widened.size());
  for (std::size_t index = 0; index < 65536; ++index)
    wrong += differs(widened[index], bfloat_to_float(patterns[index]));
  floats_to_halves(values.data(), narrowed.data(), values.size());
  for (std::size_t index = 0; index < values.size(); ++index) wrong += narrowed[index] != float_to_half(values[index]);
  floats_to_bfloats(values.data(), narrowed.data(), values.size());
  for (std::size_t index = 0; index < values.size(); ++index)
    wrong += narrowed[index] != float_to_bfloat(values[index]);
  CHECK(wrong == 0);
  for (std::size_t count = 0; count < 20; ++count) {
    std::vector<float> target(20, -1.0F);
    halves_to_floats(patterns.data() + 15000, target.data(), count);
    for (std::size_t index = 0; index < 20; ++index) {
      CHECK(target[index] == (index < count ? half_to_float(patterns[15000 + index]) : -1.0F));
    }
  }
}

TEST_CASE("bulk conversion tells of every pattern, at every place, whether it is finite") {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    std::vector<std::uint16_t> patterns(37, 0x8001);
    std::vector<float> values(patterns.size());
    const std::size_t place = bits % patterns.size();
    patterns[place] = static_cast<std::uint16_t>(bits);
    const bool half_finite = halves_to_floats(patterns.data(), values.data(), values.size());
    wrong += half_finite != std::isfinite(half_to_float(patterns[place]));
    const bool bfloat_finite = bfloats_to_floats(patterns.data(), values.data(), values.size());
    wrong += bfloat_finite != std::isfinite(bfloat_to_float(patterns[place]));
  }
  CHECK(wrong == 0);
}

#include "sim/serving/random_numbers.h"

#include <bit>
#include <cmath>

namespace evictsim::sim {
namespace {

__extension__ using Wide = unsigned __int128;

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): the next output; `state` advances.
std::uint64_t split_mix(std::uint64_t& state) {
  std::uint64_t mixed = state += 0x9e3779b97f4a7c15ULL;
  mixed = (mixed ^ (mixed >> 30U)) * 0xbf58476d1ce4e5b9ULL;
  mixed = (mixed ^ (mixed >> 27U)) * 0x94d049bb133111ebULL;
  return mixed ^ (mixed >> 31U);
}

}  // namespace

RandomNumbers::RandomNumbers(std::uint64_t seed, std::uint64_t kind, std::uint64_t number) : state_() {
  std::uint64_t mixed = seed;
  mixed = split_mix(mixed) ^ kind;
  mixed = split_mix(mixed) ^ number;
  for (std::uint64_t& word : state_) word = split_mix(mixed);
}

std::uint64_t RandomNumbers::bits() {
  const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
  const std::uint64_t shifted = state_[1] << 17U;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= shifted;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

double RandomNumbers::uniform() {
  // The middle of one of 2^53 equal intervals.
  return (static_cast<double>(bits() >> 11U) + 0.5) * 0x1p-53;
}

std::uint64_t RandomNumbers::below(std::uint64_t count) {
  return static_cast<std::uint64_t>((Wide{bits()} * count) >> 64U);
}

double RandomNumbers::exponential() { return -std::log(uniform()); }

double RandomNumbers::normal() {
  while (true) {
    const double x = 2 * uniform() - 1;
    const double y = 2 * uniform() - 1;
    const double square = x * x + y * y;
    if (square < 1 && square > 0) return x * std::sqrt(-2 * std::log(square) / square);
  }
}

double RandomNumbers::gamma(double shape) {
  // Below 1 a draw of shape + 1 is shrunk by a power of a uniform number.
  const double boost = shape < 1 ? std::pow(uniform(), 1 / shape) : 1;
  const double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3;
  const double c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = normal();
    const double root = 1 + c * x;
    if (root <= 0) continue;
    const double v = root * root * root;
    if (std::log(uniform()) < 0.5 * x * x + d - d * v + d * std::log(v)) return boost * d * v;
  }
}

}  // namespace evictsim::sim

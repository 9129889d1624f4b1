#pragma once
/// \file
/// Random numbers of workloads: the same on every machine and standard library, whose distributions are not specified.

#include <array>
#include <cstdint>

namespace evictsim::sim {

/// xoshiro256** (Blackman, Vigna: Scrambled linear pseudorandom number generators, ACM TOMS 47(4), 2021), seeded
/// through SplitMix64, and distributions on top of it.
class RandomNumbers {
 public:
  /// Streams of one seed, by kind and number, are independent of each other.
  RandomNumbers(std::uint64_t seed, std::uint64_t kind, std::uint64_t number);

  std::uint64_t bits();
  /// Between 0 and 1, neither included.
  double uniform();
  /// Below `count`, which is above 0; the bias is below count / 2^64.
  std::uint64_t below(std::uint64_t count);
  /// Mean 1.
  double exponential();
  /// Mean 0, variance 1 (polar method: Marsaglia, Bray, SIAM Review 6(3), 1964).
  double normal();
  /// Mean and variance `shape`, which is above 0 (Marsaglia, Tsang, ACM TOMS 26(3), 2000).
  double gamma(double shape);

 private:
  std::array<std::uint64_t, 4> state_;
};

}  // namespace evictsim::sim

#pragma once
/// \file
/// End times of successive steps of a batch that does not change. Every step reads the same number of entries more than
/// the one before, so that step times are an arithmetic progression and any end is known at once, to the femtosecond.

#include <cstdint>

#include "models/step_time.h"
#include "sim/engine/time.h"

namespace evictsim::sim {

/// A time with the part below its nanosecond.
struct ExactTime {
  Time time = 0;
  models::Femtoseconds rest = 0;  ///< below femtoseconds_per_nanosecond
  bool operator==(const ExactTime&) const = default;
  friend bool operator<(const ExactTime& a, const ExactTime& b) {
    return a.time != b.time ? a.time < b.time : a.rest < b.rest;
  }
};

inline constexpr models::Femtoseconds femtoseconds_per_nanosecond = 1'000'000;
/// Of one step.
inline constexpr models::Femtoseconds longest_step = 3600 * nanoseconds_per_second * femtoseconds_per_nanosecond;

inline ExactTime operator+(ExactTime time, models::Femtoseconds duration) {
  const models::Femtoseconds sum = time.rest + duration;
  return {time.time + sum / femtoseconds_per_nanosecond, sum % femtoseconds_per_nanosecond};
}

struct StepProgression {
  ExactTime start;
  models::Femtoseconds first = 0;   ///< of the first step; at most longest_step
  models::Femtoseconds growth = 0;  ///< of each step over the one before, not negative

  /// The largest number of steps, from 1 to `wanted` and 2^32, whose ends can be told in 64 bits.
  [[nodiscard]] std::int64_t representable(std::int64_t wanted) const;
  /// When `steps` of them are done; a representable number.
  [[nodiscard]] ExactTime end(std::int64_t steps) const;
  /// The smallest number of steps, from 1 to `steps`, done at `time` or later; `steps` if all are done before.
  [[nodiscard]] std::int64_t done_not_before(Time time, std::int64_t steps) const;
};

}  // namespace evictsim::sim

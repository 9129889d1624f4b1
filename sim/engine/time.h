#pragma once
/// \file
/// Simulated time: whole nanoseconds since the start, so that sums are exact and do not depend on their order.

#include <cstdint>
#include <limits>

namespace evictsim::sim {

/// Nanoseconds, never negative: 2^63 - 1 of them are 292 years.
using Time = std::int64_t;

inline constexpr Time end_of_time = std::numeric_limits<Time>::max();
inline constexpr Time nanoseconds_per_second = 1'000'000'000;

/// `seconds` to the nearest nanosecond. Throws Error(invalid_argument) for negative, non-finite and too large values.
Time from_seconds(double seconds);
/// The nearest double.
inline double to_seconds(Time time) { return static_cast<double>(time) / static_cast<double>(nanoseconds_per_second); }

}  // namespace evictsim::sim

#include "sim/engine/event_queue.h"

#include <cmath>
#include <string>

#include "traces/error.h"

namespace evictsim::sim {

Time from_seconds(double seconds) {
  const double nanoseconds = std::round(seconds * static_cast<double>(nanoseconds_per_second));
  // The comparison is false for NaN.
  if (!(nanoseconds >= 0 && nanoseconds < static_cast<double>(end_of_time))) {
    throw Error(ErrorCode::invalid_argument, "expected seconds between 0 and 9.2e9",
                {.parameter = "time", .value = std::to_string(seconds)});
  }
  return static_cast<Time>(nanoseconds);
}

namespace detail {

void refuse_past(Time time, Time now) {
  throw Error(ErrorCode::invalid_argument, "an event cannot happen before now, which is " + std::to_string(now) + " ns",
              {.parameter = "time", .value = std::to_string(time) + " ns"});
}

void refuse_delay(Time delay, Time now) {
  throw Error(ErrorCode::invalid_argument,
              "expected 0 to " + std::to_string(end_of_time - now) + " ns, so that time does not overflow",
              {.parameter = "delay", .value = std::to_string(delay) + " ns"});
}

}  // namespace detail
}  // namespace evictsim::sim

#include "sim/serving/step_progression.h"

#include <algorithm>
#include <limits>

namespace evictsim::sim {
namespace {

__extension__ using Wide = __int128;

Wide duration(const StepProgression& progression, std::int64_t steps) {
  return static_cast<Wide>(progression.first) * steps +
         static_cast<Wide>(progression.growth) * (static_cast<Wide>(steps) * (steps - 1) / 2);
}

/// The smallest number from `low` to `high` for which `holds`, which is so from some number on; `high` if for none.
template <typename Predicate>
std::int64_t first_that(std::int64_t low, std::int64_t high, Predicate holds) {
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (holds(middle)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

}  // namespace

std::int64_t StepProgression::representable(std::int64_t wanted) const {
  // Keeps products below 2^127.
  wanted = std::min(wanted, std::int64_t{1} << 32U);
  const Wide longest = std::numeric_limits<models::Femtoseconds>::max() - femtoseconds_per_nanosecond;
  if (duration(*this, wanted) <= longest) return wanted;
  return first_that(2, wanted, [&](std::int64_t steps) { return duration(*this, steps) > longest; }) - 1;
}

ExactTime StepProgression::end(std::int64_t steps) const {
  return start + static_cast<models::Femtoseconds>(duration(*this, steps));
}

std::int64_t StepProgression::done_not_before(Time time, std::int64_t steps) const {
  return first_that(1, steps, [&](std::int64_t count) { return end(count).time >= time; });
}

}  // namespace evictsim::sim

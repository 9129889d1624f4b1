#pragma once
/// \file
/// Which of several points no other point beats in two quantities at once.

#include <cstdint>
#include <span>
#include <vector>

namespace evictsim::analysis {

/// One element per point: 1 where no other point has at most its `x` and at most its `cost` and less of one. Points
/// with a NaN are not on the front, and beat none.
std::vector<std::uint8_t> pareto_front(std::span<const double> x, std::span<const double> cost);

}  // namespace evictsim::analysis

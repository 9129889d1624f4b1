#pragma once
/// \file
/// A few random directions of a large space, along which long vectors are looked at instead of being held.

#include <cstdint>

#include "models/matrix.h"

namespace evictsim::models {

/// [count, dimensions]: orthonormal rows of random direction, times sqrt(dimensions / count), so that |D x|^2 has
/// expectation |x|^2 and, for count directions, a relative standard deviation of at most sqrt(2 / count)
/// (Johnson and Lindenstrauss). The identity where `count` reaches `dimensions`: nothing is lost then. The same for
/// the same arguments everywhere. Throws Error(invalid_argument) unless both are positive.
Matrix random_directions(Index count, Index dimensions, std::uint64_t seed);

}  // namespace evictsim::models

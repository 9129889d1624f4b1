#pragma once
/// \file
/// Matrices of independent standard normal numbers, the same with every compiler and library.

#include <random>

#include "models/matrix.h"

namespace evictsim::policies {

/// [rows, columns], drawn row by row (Box-Muller: the standard library's distributions differ between libraries).
models::MatrixDouble normal_matrix(std::mt19937_64& generator, models::Index rows, models::Index columns);

}  // namespace evictsim::policies

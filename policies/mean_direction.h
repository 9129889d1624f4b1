#pragma once
/// \file
/// How far vectors point where their like point on average (KeyDiff, arXiv 2504.15364).

#include <vector>

#include "models/matrix.h"

namespace evictsim::policies {

/// Cosine of every row with the mean of all rows' directions, [rows]. Norms divided by are at least those of torch's
/// normalize and cosine_similarity.
std::vector<double> cosines_with_mean_direction(const models::MatrixView& rows);

}  // namespace evictsim::policies

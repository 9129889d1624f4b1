#pragma once
/// \file
/// Softmax attention in double precision, for scorers whose values decide between near ties.

#include <span>

#include "models/geometry.h"
#include "models/matrix.h"

namespace evictsim::policies {

/// Row r is the softmax of `queries` row r over the first `visible[r]` (at least 1) rows of `keys`, 0 beyond:
/// [queries, keys]. `queries` [n, d] and `keys` [m, d] after RoPE.
models::MatrixDouble exact_attention(const models::MatrixDouble& queries, const models::MatrixDouble& keys,
                                     std::span<const models::Index> visible, const models::Geometry& geometry);

}  // namespace evictsim::policies

#pragma once
/// \file
/// Undoing and averaging RoPE over rows: what scorers need that look at queries or keys before their rotation, or at
/// the rotations of positions to come. RoFormer, arXiv 2104.09864.

#include <span>

#include "models/matrix.h"
#include "models/rope.h"
#include "policies/cache_view.h"

namespace evictsim::policies {

/// Cosines and sines that undo the rotation of each row: taken once for all heads of a layer.
class InverseRotation {
 public:
  /// `rows`: token rows of `cache`, one per row that `apply` will get.
  InverseRotation(const CacheView& cache, std::span<const std::int32_t> rows);
  [[nodiscard]] Index rows() const { return cosine_.rows(); }
  /// Undoes RoPE in `vectors` [rows, d], in place.
  void apply(const models::Rope& rope, models::MatrixDouble& vectors) const;

 private:
  models::MatrixDouble cosine_, sine_;  ///< [rows, pairs]
};

/// Multiplies the rows of `keys` by the transpose of the rotation averaged over `count` positions from `first` on, so
/// that a dot product with an unrotated query is the mean dot product with its rotations.
void average_rotation(const models::Rope& rope, double first, Index count, models::MatrixDouble& keys);

/// The queries of a query head in their last `rotation.rows()` rows, before RoPE, [rows, d]; one row of zeros when
/// there are none. `rotation` must be made for those rows.
models::MatrixDouble unrotated_queries(const CacheView& cache, int query_head, const InverseRotation& rotation);

}  // namespace evictsim::policies

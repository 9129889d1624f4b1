#pragma once
/// \file
/// Sums over the entries of a cache that attention's output, mass and entropy are made of.

#include <vector>

#include "models/matrix.h"

namespace evictsim::sim {

using models::Index;
using models::Matrix;

/// Sums over a set of entries, per column (a query) of a tile.
struct AttentionTotals {
  Matrix output;                ///< [>= C, >= d] sum of p v
  Eigen::RowVectorXd mass;      ///< [C] sum of p
  Eigen::RowVectorXd surprise;  ///< [C] sum of p ln p

  /// Entropy of p / mass in a column, nats.
  [[nodiscard]] double renormalised_entropy(Index column) const;
};

/// Takes entries one by one. A column's sums depend on the order of the entries, not on the other columns.
class AttentionSums {
 public:
  AttentionSums(Index columns, Index dim);
  /// Goes on from the sums `start` in `columns` of its columns, from `first` on.
  AttentionSums(const AttentionTotals& start, Index first, Index columns, Index dim);
  AttentionSums(const AttentionSums&) = delete;  // entries that wait may lie in its own rows
  AttentionSums& operator=(const AttentionSums&) = delete;

  /// Adds an entry: `probability` [C], `surprise` [C] (p ln p) and `value` [d]. `probability` is read again until the
  /// next call of `totals` and must stay as it is; what lies nowhere else goes into `own_probability`.
  void add(const float* probability, const float* surprise, const float* value);
  /// A row [C] for the probabilities of the next entry.
  float* own_probability() { return own_.row(waiting_).data(); }
  /// The sums so far.
  const AttentionTotals& totals();

 private:
  void add_outputs();
  void add_to_mass();

  Index columns_, dim_;
  AttentionTotals totals_;
  // Entries not yet in `totals_.output`. Values lie in the order that the product reads.
  Index waiting_ = 0;
  std::vector<const float*> probability_;  ///< [entry] of C floats
  Matrix last_;                            ///< [entry, models::block_rows] the columns of a block that C does not fill
  Matrix own_;                             ///< [entry, C]
  Eigen::VectorXf value_;                  ///< [dim block][entry][models::block_columns]
  // A few rows are added in float first, which costs no digits that a probability has and spares most conversions.
  Index added_ = 0;
  Eigen::RowVectorXf mass_, surprise_;
};

}  // namespace evictsim::sim

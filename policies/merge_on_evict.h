#pragma once
/// \file
/// What placements share that fold evicted entries into kept ones: the keys and values as they are attended then.

#include <span>
#include <vector>

#include "policies/placement.h"
#include "policies/retrieval.h"

namespace evictsim::policies {

/// The hot entries are attended, with the keys and values that `merge` left.
class MergeOnEvict : public Placement {
 public:
  void begin(const PlacementView& layer) override;
  void cut(const PlacementView& layer) override;
  void attend(const PlacementView& layer, AttendedEntries& attended) override;
  [[nodiscard]] models::MatrixView attended_keys(const PlacementView& layer, int head) const override;
  [[nodiscard]] models::MatrixView attended_values(const PlacementView& layer, int head) const override;
  [[nodiscard]] TierBytes stored(const PlacementView& layer) const override;

 protected:
  /// As attended, by token row.
  struct Rows {
    ChangedRows keys, values;
  };
  /// Called at every cut that evicts from a cache head: folds `evicted` rows, ascending, into the hot ones.
  virtual void merge(const PlacementView& layer, int head, std::span<const std::int32_t> evicted, Rows& rows) = 0;

 private:
  void merge_all(const PlacementView& layer);

  std::vector<ColdLog> logs_;  ///< by cache head
  std::vector<Rows> rows_;     ///< by cache head
};

}  // namespace evictsim::policies

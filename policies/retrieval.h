#pragma once
/// \file
/// What placements share: the choice of the best pages, the order in which entries left the hot cache, the count of
/// hits and misses, and keys or values that differ from the recorded ones.

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "policies/parameters.h"
#include "policies/placement.h"

namespace evictsim::policies {

/// Places of the `count` largest `scores`, ascending; of equal ones the first. Fewer where there are fewer.
std::vector<Index> best_places(std::span<const double> scores, Index count);

/// KV head that a cache head reads.
int kv_head_of(const PlacementView& layer, int head);

/// Exact keys and values of the hot entries, in HBM.
TierBytes hot_bytes(const PlacementView& layer);

/// q.k in double precision, in the order of components.
double dot(std::span<const float> query, const models::MatrixView& keys, Index row);

/// How the query heads of a cache head agree on one choice.
enum class GroupChoice { max, mean };
/// The parameter `group`, max unless given.
ParameterSpec group_choice_parameter();
GroupChoice group_choice_of(const Parameters& parameters);
/// The scores of a group's query heads as one row.
std::vector<double> agree(GroupChoice choice, const std::vector<std::vector<double>>& rows);

/// Lets every query head of a cache head attend `rows`, ascending.
void attend_rows(const PlacementView& layer, int head, const std::vector<std::int32_t>& rows,
                 AttendedEntries& attended);

/// Distinct entries that the query heads of a cache head attend, ascending.
std::vector<std::int32_t> attended_rows(const PlacementView& layer, int head, const AttendedEntries& attended);

/// Counts all distinct attended entries of a cache head as hits.
void count_hits(const PlacementView& layer, int head, AttendedEntries& attended);
/// The same for all cache heads.
void count_hits(const PlacementView& layer, AttendedEntries& attended);
/// The same where `recalled` (among the attended) came from a slower tier.
void count_hits_and_misses(const PlacementView& layer, int head, Index recalled, AttendedEntries& attended);

/// Rows of one cache head that left the hot cache, in the order in which they did (those of one cut ascending).
class ColdLog {
 public:
  /// Takes in what is new in `cold` below row `before`; answers with it.
  std::span<const std::int32_t> append(std::span<const std::int32_t> cold, Index before);
  [[nodiscard]] std::span<const std::int32_t> rows() const { return rows_; }

 private:
  std::vector<std::int32_t> rows_;
  std::vector<std::uint8_t> known_;  ///< by row
};

/// Keys or values of one cache head as they are attended: the recorded rows, some of them changed.
class ChangedRows {
 public:
  /// Copies the recorded rows that are not there yet.
  void follow(const models::MatrixView& recorded);
  [[nodiscard]] std::span<float> row(Index row) {
    return {numbers_.data() + row * columns_, static_cast<std::size_t>(columns_)};
  }
  [[nodiscard]] std::span<const float> row(Index row) const {
    return {numbers_.data() + row * columns_, static_cast<std::size_t>(columns_)};
  }
  [[nodiscard]] models::MatrixView view() const { return models::view(numbers_.data(), rows_, columns_); }
  [[nodiscard]] Index rows() const { return rows_; }

 private:
  std::vector<float> numbers_;
  Index rows_ = 0;
  Index columns_ = 0;
};

/// A placement that leaves entries where they are and has other keys attended in place of those recorded.
class ChangedKeys : public Placement {
 public:
  void attend(const PlacementView& layer, AttendedEntries& attended) override;
  [[nodiscard]] models::MatrixView attended_keys(const PlacementView&, int head) const override {
    return keys_[static_cast<std::size_t>(head)].view();
  }

 protected:
  /// Those of a cache head, for changes; rows not there yet are as recorded.
  ChangedRows& changed_keys(const PlacementView& layer, int head);

 private:
  std::vector<ChangedRows> keys_;  ///< by cache head
};

}  // namespace evictsim::policies

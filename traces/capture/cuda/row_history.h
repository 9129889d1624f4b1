#pragma once
/// \file
/// Which rows of the residual stream stay on the device until a later tensor is compared with them: the last row of
/// every request and layer, for steps, and a step's rows, for cosines. Says where rows lie; holds no memory itself.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "traces/capture/row_batch.h"

namespace evictsim::traces::capture {

/// Places are rows of float32 in a memory of fixed size. Thread-safe; take() and miss() of one history follow each
/// other, and kernels that read or write places run in the order of take(): a place that is given up may be given out
/// at once.
class RowHistory {
 public:
  explicit RowHistory(std::size_t bytes) : bytes_(bytes) {}

  /// What the kernels of one selection do. Lists are for output rows in order; -1: none.
  struct Plan {
    std::vector<std::int64_t> within;  ///< of a step: the row of the same tensor that each row is compared with
    std::vector<std::int64_t> held;    ///< the place that each row is compared with, where it is not `within`
    std::vector<std::int64_t> kept;    ///< rows of the tensor that stay, once all is compared
    std::vector<std::int64_t> places;  ///< their places
  };

  /// Bytes of the lists that a plan and the selection's own rows take at most.
  static std::size_t list_bytes(Measure measure, std::size_t rows) noexcept;

  /// Whether the rows to compare with are held, or there is room to hold these; where not, it is as after miss().
  /// `width` is that of a row. Throws Error (invalid_argument) when it differs from that of the rows before.
  bool can_take(const RowSelection& selection, std::int64_t width);
  /// Only after can_take(). What a cosine was compared with is given up. A row without one to compare with has -1 in
  /// both lists, and its request is not followed any further.
  Plan take(const RowSelection& selection);
  /// The selection is dropped: nothing is held for it any more.
  void miss(const RowSelection& selection);
  void forget(std::uint64_t request) noexcept;

  [[nodiscard]] std::int64_t rows() const;  ///< places there are
  [[nodiscard]] std::uint64_t held_bytes() const;
  [[nodiscard]] std::uint64_t unmatched_rows() const;

 private:
  struct LastRow {
    std::int64_t place = 0;
    std::int32_t token = 0;
  };
  struct Hold {
    std::shared_ptr<const RowMap> rows;
    std::vector<std::int64_t> places;
  };
  using LastRows = std::map<int, LastRow>;  // by layer

  [[nodiscard]] std::int64_t places_left() const;
  std::int64_t take_place();
  void give_up(Hold& hold);
  [[nodiscard]] Hold* hold_of(const RowSelection& selection);
  void give_up_for(const RowSelection& selection);
  void take_steps(const RowSelection& selection, Plan& plan);
  void follow(const RowOrigin& last, int layer, std::int64_t source, bool whole, Plan& plan);

  std::size_t bytes_;
  mutable std::mutex mutex_;
  std::int64_t width_ = 0, rows_ = 0, used_ = 0;  // used_: places that were ever given out
  std::vector<std::int64_t> free_;
  std::unordered_map<std::uint64_t, LastRows> last_;  // by request
  std::map<int, Hold> entering_, outputs_;            // by layer; of the former at most one
  std::uint64_t unmatched_ = 0;
};

}  // namespace evictsim::traces::capture

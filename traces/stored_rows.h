#pragma once
/// \file
/// Reads rows of a dataset in its stored type. Chunks are decoded here instead of by HDF5, whose pipeline does not hold
/// the size of a decoded chunk against the size it expects; and here they are decoded without the lock. Rows that lie
/// in the file as they are get read from there, also without the lock. Internal.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "traces/hdf5_handle.h"

namespace evictsim::traces::hdf5 {

class StoredRows {
 public:
  /// Throws what makes the dataset unreadable. `dataset` must outlive this object.
  explicit StoredRows(const Node& dataset);

  [[nodiscard]] const std::vector<std::size_t>& shape() const { return shape_; }
  [[nodiscard]] std::size_t rows() const { return shape_.empty() ? 1 : shape_[0]; }
  [[nodiscard]] std::size_t row_bytes() const { return row_bytes_; }
  /// Rows that are decoded together, and so are best read together.
  [[nodiscard]] std::size_t unit_rows() const { return chunk_.empty() || descriptor_ >= 0 ? 1 : chunk_[0]; }
  /// Reads rows [first, first + count) of the first axis. Throws not_a_trace when they are damaged.
  void read(std::size_t first, std::size_t count, std::byte* buffer);

 private:
  /// Memory that is used again without being filled first.
  struct Bytes {
    std::unique_ptr<std::byte[]> data;
    std::size_t size = 0, capacity = 0;
    void resize(std::size_t wanted);  ///< the contents are lost
  };

  void read_plain(std::size_t first, std::size_t count, std::byte* buffer);
  [[nodiscard]] haddr_t chunk_place(const std::vector<std::size_t>& origin) const;
  void read_file(haddr_t place, std::size_t size, std::byte* buffer) const;
  void read_chunk(const std::vector<std::size_t>& origin);
  void reverse_filters(std::uint32_t skipped);
  void copy_from_chunk(const std::vector<std::size_t>& origin, std::size_t first, std::size_t count,
                       std::byte* buffer) const;
  [[nodiscard]] Error damaged() const;

  const Node& dataset_;
  std::vector<std::size_t> shape_, chunk_;  ///< chunk_ is empty for a dataset without chunks
  std::size_t element_ = 0, row_bytes_ = 0, chunk_bytes_ = 0;
  /// Trailing axes that a chunk covers whole are one with the axis before them: `axes_` are left, with steps of
  /// `step_bytes_` along the last.
  std::size_t axes_ = 0, step_bytes_ = 0;
  std::vector<H5Z_filter_t> filters_;
  Bytes bytes_, scratch_;  ///< the chunk at hand
  /// The open file when whole rows lie in it as they are, else -1; then rows [run_first_, run_first_ + run_rows_) are
  /// known to start at byte `run_place_`.
  int descriptor_ = -1;
  std::size_t run_first_ = 0, run_rows_ = 0;
  haddr_t run_place_ = HADDR_UNDEF;
};

/// All values, widened. Throws wrong_type for other classes of types.
std::vector<std::int64_t> read_integers(const Node& dataset);
std::vector<double> read_reals(const Node& dataset);

}  // namespace evictsim::traces::hdf5

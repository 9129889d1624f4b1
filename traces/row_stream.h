#pragma once
/// \file
/// Tensors on their way into a trace file. Internal to traces/.

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "traces/hdf5_handle.h"
#include "traces/writer.h"

namespace evictsim::traces {

/// Product of the extents from axis `first` on.
std::size_t element_count(const std::vector<std::size_t>& shape, std::size_t first = 0);

/// Writes `values` as `type`, rounded to nearest even.
void convert_floats(std::span<const float> values, TensorType type, std::byte* bytes);

/// NaN, infinity and what rounds to infinity may not enter a tensor.
void require_storable(std::span<const float> values, TensorType type, const hdf5::Node& dataset);

/// Creates a dataset and fills it. Throws Error: wrong_shape, invalid_value, io_failure.
void write_tensor(const hdf5::Node& group, const char* name, TensorType type, const std::vector<std::size_t>& shape,
                  std::span<const float> values);

/// A dataset that grows by rows. Rows are gathered until they fill chunks, so that each chunk is written once.
class RowStream {
 public:
  RowStream(const hdf5::Node& group, const std::string& name, std::vector<std::size_t> row_shape,
            const WriterOptions& options);

  [[nodiscard]] std::size_t row_elements() const { return row_elements_; }
  [[nodiscard]] std::size_t rows() const { return shape_[0] + pending_.size() / row_bytes_; }
  [[nodiscard]] const hdf5::Node& dataset() const { return dataset_; }

  /// Throws Error: wrong_shape for less than whole rows, invalid_value for numbers that the type cannot hold.
  void append(std::span<const float> values);
  void flush();

 private:
  TensorType type_;
  std::vector<std::size_t> shape_;
  std::size_t row_elements_ = 0;
  std::size_t row_bytes_ = 0;
  std::size_t chunk_rows_ = 0;
  hdf5::Node dataset_;
  std::vector<std::byte> pending_;
};

/// Completes a stream and checks its rows; null: `name` was never written into `group`.
void finish(const std::unique_ptr<RowStream>& stream, const hdf5::Node& group, const char* name, std::size_t rows);

}  // namespace evictsim::traces

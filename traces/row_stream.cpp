#include "traces/row_stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "traces/half.h"
#include "traces/trace_output.h"

namespace evictsim::traces {

using hdf5::Node;

std::size_t element_count(const std::vector<std::size_t>& shape, std::size_t first) {
  std::size_t count = 1;
  for (std::size_t axis = first; axis < shape.size(); ++axis) count *= shape[axis];
  return count;
}

void convert_floats(std::span<const float> values, TensorType type, std::byte* bytes) {
  switch (type) {
    case TensorType::float16:
      floats_to_halves(values.data(), reinterpret_cast<std::uint16_t*>(bytes), values.size());
      return;
    case TensorType::bfloat16:
      floats_to_bfloats(values.data(), reinterpret_cast<std::uint16_t*>(bytes), values.size());
      return;
    case TensorType::float32:
      std::copy_n(reinterpret_cast<const std::byte*>(values.data()), values.size_bytes(), bytes);
      return;
  }
}

/// NaN, infinity and what rounds to infinity may not enter a tensor.
void require_storable(std::span<const float> values, TensorType type, const Node& dataset) {
  // Halfway between the largest float16 (or bfloat16) and what would be the next: from there values round to infinity.
  const float limit = type == TensorType::float16    ? 65520.0F
                      : type == TensorType::bfloat16 ? std::bit_cast<float>(0x7f7f8000U)
                                                     : std::numeric_limits<float>::infinity();
  for (const float value : values) {
    if (std::abs(value) < limit) continue;
    throw dataset.error(ErrorCode::invalid_value,
                        fmt::format("must be finite and within the range of {}", to_string(type)),
                        fmt::format("{}", value));
  }
}

void write_tensor(const Node& group, const char* name, TensorType type, const std::vector<std::size_t>& shape,
                  std::span<const float> values) {
  const Node dataset = group.create_dataset(name, hdf5::tensor_type(type).get(), shape);
  if (values.size() != element_count(shape)) {
    throw dataset.error(ErrorCode::wrong_shape, fmt::format("must have {} values", element_count(shape)),
                        fmt::format("{} values", values.size()));
  }
  require_storable(values, type, dataset);
  std::vector<std::byte> bytes(values.size() * hdf5::element_size(type));
  convert_floats(values, type, bytes.data());
  dataset.write_rows(shape, 0, shape[0], bytes.data());
}

RowStream::RowStream(const Node& group, const std::string& name, std::vector<std::size_t> row_shape,
                     const WriterOptions& options)
    : type_(options.tensor_type), shape_(std::move(row_shape)) {
  shape_.insert(shape_.begin(), 0);
  row_elements_ = element_count(shape_, 1);
  row_bytes_ = row_elements_ * hdf5::element_size(type_);
  chunk_rows_ = rows_per_chunk(row_bytes_);
  std::vector<std::size_t> chunk = shape_;
  chunk[0] = chunk_rows_;
  dataset_ = group.create_dataset(name, hdf5::tensor_type(type_).get(), shape_, chunk, options.compress);
}

void RowStream::append(std::span<const float> values) {
  if (values.size() % row_elements_ != 0) {
    throw dataset_.error(ErrorCode::wrong_shape, fmt::format("must get whole rows of {} values", row_elements_),
                         fmt::format("{} values", values.size()));
  }
  require_storable(values, type_, dataset_);
  std::size_t rows = values.size() / row_elements_;
  for (const float* source = values.data(); rows > 0;) {
    const std::size_t used = pending_.size();
    const std::size_t taken = std::min(rows, chunk_rows_ - used / row_bytes_);
    pending_.resize(used + taken * row_bytes_);
    convert_floats({source, taken * row_elements_}, type_, pending_.data() + used);
    source += taken * row_elements_;
    rows -= taken;
    if (pending_.size() == chunk_rows_ * row_bytes_) flush();
  }
}

void RowStream::flush() {
  const std::size_t count = pending_.size() / row_bytes_;
  if (count == 0) return;
  const std::size_t first = shape_[0];
  shape_[0] += count;
  dataset_.resize(shape_);
  dataset_.write_rows(shape_, first, count, pending_.data());
  pending_.clear();
}

void finish(const std::unique_ptr<RowStream>& stream, const Node& group, const char* name, std::size_t rows) {
  if (!stream) throw group.error(ErrorCode::missing_data, fmt::format("{} must be written", name));
  stream->flush();
  if (stream->rows() == rows) return;
  throw stream->dataset().error(ErrorCode::wrong_shape, fmt::format("must have {} rows", rows),
                                fmt::format("{} rows", stream->rows()));
}

}  // namespace evictsim::traces

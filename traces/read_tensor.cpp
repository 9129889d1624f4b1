// Tensor contents: blocks of stored rows, checked for NaN and infinity, converted and transposed.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "traces/half.h"
#include "traces/stored_rows.h"
#include "traces/trace_file.h"

namespace evictsim::traces {
namespace {

/// Bytes of stored rows held at once: small enough to stay in the cache between reading and converting.
constexpr std::size_t block_bytes = std::size_t{512} << 10;

/// A value is NaN or infinite when its exponent is all ones: adding one unit of the exponent then carries into the
/// sign bit. Works on all lanes of a 64-bit word at once, since no lane can carry out.
struct ExponentMask {
  std::uint64_t exponent, unit, carry;
};

ExponentMask exponent_mask(TensorType type) {
  switch (type) {
    case TensorType::float16:
      return {0x7c007c007c007c00U, 0x0400040004000400U, 0x8000800080008000U};
    case TensorType::bfloat16:
      return {0x7f807f807f807f80U, 0x0080008000800080U, 0x8000800080008000U};
    case TensorType::float32:
      break;
  }
  return {0x7f8000007f800000U, 0x0080000000800000U, 0x8000000080000000U};
}

bool all_finite(const std::byte* data, std::size_t bytes, TensorType type) {
  const ExponentMask mask = exponent_mask(type);
  std::uint64_t found = 0;
  const auto look = [&](std::uint64_t word) { found |= (word & mask.exponent) + mask.unit; };
  std::size_t offset = 0;
  for (; offset + 8 <= bytes; offset += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, data + offset, 8);
    look(word);
  }
  if (offset < bytes) {
    std::uint64_t word = 0;
    std::memcpy(&word, data + offset, bytes - offset);
    look(word);
  }
  return (found & mask.carry) == 0;
}

void convert(const std::byte* source, TensorType type, float* destination, std::size_t count) {
  switch (type) {
    case TensorType::float16:
      halves_to_floats(reinterpret_cast<const std::uint16_t*>(source), destination, count);
      return;
    case TensorType::bfloat16:
      bfloats_to_floats(reinterpret_cast<const std::uint16_t*>(source), destination, count);
      return;
    case TensorType::float32:
      std::memcpy(destination, source, count * sizeof(float));
      return;
  }
}

/// Calls `use(first, count, bytes)` for consecutive blocks of rows.
template <typename Use>
void for_blocks(hdf5::StoredRows& stored, Use&& use) {
  const std::size_t rows = stored.rows();
  const std::size_t row_bytes = stored.row_bytes();
  if (rows == 0 || row_bytes == 0) return;
  // Whole chunks, so that none is decoded twice.
  const std::size_t chunk = std::min(stored.chunk_rows(), rows);
  const std::size_t block = std::min(rows, chunk * std::max<std::size_t>(1, block_bytes / (chunk * row_bytes)));
  const auto buffer = std::make_unique_for_overwrite<std::byte[]>(block * row_bytes);
  for (std::size_t first = 0; first < rows; first += block) {
    const std::size_t count = std::min(block, rows - first);
    stored.read(first, count, buffer.get());
    use(first, count, static_cast<const std::byte*>(buffer.get()));
  }
}

TensorType stored_type(const hdf5::Node& dataset) {
  const hdf5::Guard guard;
  return dataset.tensor_type();
}

}  // namespace

void read_head_major(const hdf5::Node& dataset, std::vector<float>& values) {
  hdf5::StoredRows stored(dataset);
  const TensorType type = stored_type(dataset);
  const std::vector<std::size_t>& shape = stored.shape();
  const std::size_t rows = shape.at(0);
  const std::size_t heads = shape.at(1);
  const std::size_t width = shape.at(2);
  const std::size_t size = hdf5::element_size(type);
  values.resize(rows * heads * width);
  for_blocks(stored, [&](std::size_t first, std::size_t count, const std::byte* bytes) {
    const std::size_t row_bytes = heads * width * size;
    if (!all_finite(bytes, count * row_bytes, type)) {
      for (std::size_t row = 0; row < count * heads; ++row) {
        if (all_finite(bytes + row * width * size, width * size, type)) continue;
        throw dataset.error(ErrorCode::invalid_value, "must be finite, and holds NaN or infinity",
                            fmt::format("row {}, head {}", first + row / heads, row % heads));
      }
    }
    for (std::size_t head = 0; head < heads; ++head) {
      float* target = values.data() + (head * rows + first) * width;
      for (std::size_t row = 0; row < count; ++row) {
        convert(bytes + row * row_bytes + head * width * size, type, target + row * width, width);
      }
    }
  });
}

Tensor read_tensor(const hdf5::Node& dataset) {
  Tensor tensor;
  hdf5::StoredRows stored(dataset);
  const TensorType type = stored_type(dataset);
  tensor.shape = stored.shape();
  std::size_t row = 1;
  for (std::size_t axis = 1; axis < tensor.shape.size(); ++axis) row *= tensor.shape[axis];
  tensor.data.resize(tensor.shape.at(0) * row);
  for_blocks(stored, [&](std::size_t first, std::size_t count, const std::byte* bytes) {
    convert(bytes, type, tensor.data.data() + first * row, count * row);
  });
  return tensor;
}

}  // namespace evictsim::traces

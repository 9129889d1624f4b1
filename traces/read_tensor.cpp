// Tensor contents: blocks of stored rows, checked for NaN and infinity, converted and transposed.
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>

#include "traces/half.h"
#include "traces/stored_rows.h"
#include "traces/trace_file.h"

namespace evictsim::traces {
namespace {

/// Bytes of stored rows held at once: small enough to stay in the cache between reading and converting.
constexpr std::size_t block_bytes = std::size_t{256} << 10;

/// Whether all values are finite.
bool convert(const std::byte* source, TensorType type, float* destination, std::size_t count) {
  switch (type) {
    case TensorType::float16:
      return halves_to_floats(reinterpret_cast<const std::uint16_t*>(source), destination, count);
    case TensorType::bfloat16:
      return bfloats_to_floats(reinterpret_cast<const std::uint16_t*>(source), destination, count);
    case TensorType::float32:
      break;
  }
  std::uint32_t largest = 0;
  for (std::size_t index = 0; index < count; ++index) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, source + index * sizeof bits, sizeof bits);
    destination[index] = std::bit_cast<float>(bits);
    largest = std::max(largest, bits & 0x7fffffffU);
  }
  return largest < 0x7f800000U;
}

/// Calls `use(first, count, bytes)` for consecutive blocks of rows.
template <typename Use>
void for_blocks(hdf5::StoredRows& stored, Use&& use) {
  const std::size_t rows = stored.rows();
  const std::size_t row_bytes = stored.row_bytes();
  if (rows == 0 || row_bytes == 0) return;
  // Whole chunks, so that none is decoded twice.
  const std::size_t unit = std::min(stored.unit_rows(), rows);
  const std::size_t block = std::min(rows, unit * std::max<std::size_t>(1, block_bytes / (unit * row_bytes)));
  const auto buffer = std::make_unique_for_overwrite<std::byte[]>(block * row_bytes);
  for (std::size_t first = 0; first < rows; first += block) {
    const std::size_t count = std::min(block, rows - first);
    stored.read(first, count, buffer.get());
    use(first, count, static_cast<const std::byte*>(buffer.get()));
  }
}

/// Makes room for `count` values, which are to be overwritten. Memory that is new comes in large pages where the system
/// has them: faulting small ones in takes several times as long as reading what goes there.
void make_room(std::vector<float>& values, std::size_t count) {
  if (count > values.capacity()) {
    values = {};
    values.reserve(count);
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto first = (reinterpret_cast<std::uintptr_t>(values.data()) + page - 1) / page * page;
    const auto last = reinterpret_cast<std::uintptr_t>(values.data() + count) / page * page;
    constexpr std::uintptr_t worthwhile = std::uintptr_t{4} << 20;
    // Only advice: nothing depends on whether the system takes it.
    if (last > first && last - first >= worthwhile) {
      ::madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
    }
  }
  values.resize(count);
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
  make_room(values, rows * heads * width);
  for_blocks(stored, [&](std::size_t first, std::size_t count, const std::byte* bytes) {
    const std::size_t row_bytes = heads * width * size;
    bool finite = true;
    for (std::size_t head = 0; head < heads; ++head) {
      float* target = values.data() + (head * rows + first) * width;
      for (std::size_t row = 0; row < count; ++row) {
        finite &= convert(bytes + row * row_bytes + head * width * size, type, target + row * width, width);
      }
    }
    if (finite) return;
    std::vector<float> part(width);
    for (std::size_t place = 0; place < count * heads; ++place) {
      if (convert(bytes + place * width * size, type, part.data(), width)) continue;
      throw dataset.error(ErrorCode::invalid_value, "must be finite, and holds NaN or infinity",
                          fmt::format("row {}, head {}", first + place / heads, place % heads));
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
  make_room(tensor.data, tensor.shape.at(0) * row);
  for_blocks(stored, [&](std::size_t first, std::size_t count, const std::byte* bytes) {
    convert(bytes, type, tensor.data.data() + first * row, count * row);
  });
  return tensor;
}

}  // namespace evictsim::traces

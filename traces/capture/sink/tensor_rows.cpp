#include "traces/capture/sink/tensor_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "traces/half.h"
#include "traces/hdf5_handle.h"

namespace evictsim::traces::capture {
namespace {

Error tensor_error(ErrorCode code, const char* name, const std::string& rule, const std::string& value = {}) {
  return {code, rule, {.file = {}, .dataset = {}, .parameter = name, .value = value}};
}

ElementType element_type(const DLDataType& type, const char* name) {
  if (type.lanes == 1) {
    if (type.code == kDLFloat && type.bits == 32) return ElementType::f32;
    if (type.code == kDLFloat && type.bits == 16) return ElementType::f16;
    if (type.code == kDLBfloat && type.bits == 16) return ElementType::bf16;
    if (type.code == kDLFloat8_e4m3fn && type.bits == 8) return ElementType::fp8_e4m3;
    if (type.code == kDLFloat8_e5m2 && type.bits == 8) return ElementType::fp8_e5m2;
  }
  throw tensor_error(ErrorCode::unsupported, name,
                     "must be float32, float16, bfloat16, float8_e4m3fn or float8_e5m2, one lane",
                     fmt::format("DLPack type code {}, {} bits, {} lanes", type.code, type.bits, type.lanes));
}

bool is_on_device(const DLDevice& device, const char* name) {
  switch (device.device_type) {
    case kDLCPU:
    case kDLCUDAHost:
      return false;
    case kDLCUDA:
    case kDLCUDAManaged:
      return true;
    default:
      throw tensor_error(ErrorCode::unsupported, name, "must be in host or CUDA memory",
                         fmt::format("DLPack device type {}", static_cast<int>(device.device_type)));
  }
}

std::string shape_text(const DLTensor& tensor) {
  std::string text = "[";
  for (std::int32_t axis = 0; axis < tensor.ndim; ++axis) {
    text += (axis == 0 ? "" : ", ") + std::to_string(tensor.shape[axis]);
  }
  return text + "]";
}

constexpr std::int32_t most_axes = 4;
constexpr std::int64_t most_elements = std::int64_t{1} << 48;

/// Strides in elements; compact row-major where the tensor gives none.
std::vector<std::int64_t> strides_of(const DLTensor& tensor, const char* name) {
  std::vector<std::int64_t> strides(static_cast<std::size_t>(tensor.ndim));
  std::int64_t compact = 1;
  for (std::int32_t axis = tensor.ndim; axis-- > 0;) {
    const auto place = static_cast<std::size_t>(axis);
    const std::int64_t extent = tensor.shape[axis];
    if (extent < 0 || (extent > 0 && compact > most_elements / extent)) {
      throw tensor_error(ErrorCode::wrong_shape, name, "has extents that no tensor has", shape_text(tensor));
    }
    strides[place] = tensor.strides == nullptr ? compact : tensor.strides[axis];
    if (std::abs(strides[place]) > most_elements) {
      throw tensor_error(ErrorCode::wrong_shape, name, "has a stride that no tensor has",
                         std::to_string(strides[place]));
    }
    compact *= extent;
  }
  return strides;
}

template <typename Element>
void gather_elements(const TensorRows& tensor, std::int64_t offset, Element* target) {
  const auto* source = reinterpret_cast<const Element*>(tensor.data) + offset;
  if (tensor.element_stride == 1) {
    std::memcpy(target, source, static_cast<std::size_t>(tensor.width) * sizeof(Element));
    return;
  }
  for (std::int64_t i = 0; i < tensor.width; ++i) target[i] = source[i * tensor.element_stride];
}

void gather_line(const TensorRows& tensor, std::int64_t offset, std::byte* target) {
  switch (tensor.type) {
    case ElementType::f32:
      return gather_elements(tensor, offset, reinterpret_cast<std::uint32_t*>(target));
    case ElementType::f16:
    case ElementType::bf16:
      return gather_elements(tensor, offset, reinterpret_cast<std::uint16_t*>(target));
    default:
      for (std::int64_t i = 0; i < tensor.width; ++i) {
        const float value = load_element(tensor.data, tensor.type, offset + i * tensor.element_stride);
        std::memcpy(target + static_cast<std::size_t>(i) * sizeof value, &value, sizeof value);
      }
  }
}

/// Whether the rows are one run of memory in the wanted order.
bool is_dense(const TensorRows& tensor, std::span<const std::int64_t> source, std::size_t heads) {
  const bool raw =
      tensor.type == ElementType::f32 || tensor.type == ElementType::f16 || tensor.type == ElementType::bf16;
  if (!raw || heads != static_cast<std::size_t>(tensor.heads) || tensor.element_stride != 1) return false;
  if (tensor.heads > 1 && tensor.head_stride != tensor.width) return false;
  if (source.size() > 1 && tensor.row_stride != tensor.heads * tensor.width) return false;
  if (source.back() - source.front() + 1 != static_cast<std::int64_t>(source.size())) return false;
  return source.front() / tensor.rows_per_batch == source.back() / tensor.rows_per_batch ||
         tensor.batch_stride == tensor.rows_per_batch * tensor.row_stride;
}

std::int64_t row_offset(const TensorRows& tensor, std::int64_t row) {
  return row / tensor.rows_per_batch * tensor.batch_stride + row % tensor.rows_per_batch * tensor.row_stride;
}

}  // namespace

TensorRows read_tensor_rows(const DLTensor* tensor, const char* name, bool with_heads, std::int64_t heads,
                            std::int64_t width) {
  if (tensor == nullptr) throw tensor_error(ErrorCode::invalid_argument, name, "must be a DLTensor, not null");
  const std::int32_t inner = (with_heads ? 1 : 0) + (width > 0 ? 1 : 0);
  if (tensor->ndim < inner + 1 || tensor->ndim > std::min(inner + 2, most_axes) || tensor->shape == nullptr) {
    throw tensor_error(ErrorCode::wrong_shape, name,
                       fmt::format("must have {} or {} axes: rows, or batch and rows{}", inner + 1, inner + 2,
                                   with_heads  ? ", then heads and width"
                                   : width > 0 ? ", then the width"
                                               : ""),
                       fmt::format("{} axes", tensor->ndim));
  }
  TensorRows rows;
  rows.type = element_type(tensor->dtype, name);
  rows.on_device = is_on_device(tensor->device, name);
  const std::vector<std::int64_t> strides = strides_of(*tensor, name);
  std::size_t axis = 0;
  if (tensor->ndim == inner + 2) {
    rows.batches = tensor->shape[axis];
    rows.batch_stride = strides[axis++];
  }
  rows.rows_per_batch = tensor->shape[axis];
  rows.row_stride = strides[axis++];
  if (with_heads) {
    rows.heads = tensor->shape[axis];
    rows.head_stride = strides[axis++];
  }
  if (width > 0) {
    rows.width = tensor->shape[axis];
    rows.element_stride = strides[axis];
  }
  if ((with_heads && rows.heads != heads) || (width > 0 && rows.width != width)) {
    throw tensor_error(ErrorCode::wrong_shape, name,
                       with_heads ? fmt::format("must have shape [.., {}, {}]", heads, width)
                                  : fmt::format("must have shape [.., {}]", width),
                       shape_text(*tensor));
  }
  if (tensor->data == nullptr && rows.rows() > 0) {
    throw tensor_error(ErrorCode::invalid_argument, name, "has no data");
  }
  rows.data = static_cast<const std::byte*>(tensor->data);
  if (rows.data != nullptr) rows.data += tensor->byte_offset;
  if (reinterpret_cast<std::uintptr_t>(rows.data) % element_bytes(rows.type) != 0) {
    throw tensor_error(ErrorCode::unsupported, name, "its elements must be aligned");
  }
  return rows;
}

TensorType gathered_type(ElementType type) {
  if (type == ElementType::f16) return TensorType::float16;
  return type == ElementType::bf16 ? TensorType::bfloat16 : TensorType::float32;
}

std::span<const std::byte> gather_rows(const TensorRows& tensor, std::span<const std::int64_t> source,
                                       std::span<const std::int32_t> heads, std::vector<std::byte>& scratch) {
  if (source.empty()) return {};
  const auto taken = heads.empty() ? static_cast<std::size_t>(tensor.heads) : heads.size();
  const std::size_t size = gathered_type(tensor.type) == TensorType::float32 ? 4 : 2;
  const std::size_t line = static_cast<std::size_t>(tensor.width) * size;
  const std::size_t bytes = source.size() * taken * line;
  if (is_dense(tensor, source, taken)) {
    return {tensor.data + row_offset(tensor, source.front()) * static_cast<std::int64_t>(size), bytes};
  }
  scratch.resize(bytes);
  std::byte* target = scratch.data();
  for (const std::int64_t row : source) {
    const std::int64_t offset = row_offset(tensor, row);
    for (std::size_t i = 0; i < taken; ++i, target += line) {
      const std::int64_t head = heads.empty() ? static_cast<std::int64_t>(i) : heads[i];
      gather_line(tensor, offset + head * tensor.head_stride, target);
    }
  }
  return scratch;
}

void widen_rows(std::span<const std::byte> bytes, TensorType type, std::vector<float>& values) {
  if (type == TensorType::float32) {
    values.resize(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return;
  }
  values.resize(bytes.size() / sizeof(std::uint16_t));
  const auto* patterns = reinterpret_cast<const std::uint16_t*>(bytes.data());
  if (type == TensorType::float16) {
    halves_to_floats(patterns, values.data(), values.size());
  } else {
    bfloats_to_floats(patterns, values.data(), values.size());
  }
}

namespace {

/// Whether one of so many 16-bit numbers has all exponent bits set.
bool any_unbounded(const std::uint16_t* patterns, std::size_t count, std::uint16_t exponent) {
  std::uint16_t most = 0;
  for (std::size_t i = 0; i < count; ++i) most = std::max(most, static_cast<std::uint16_t>(patterns[i] & exponent));
  return most == exponent;
}

bool any_unbounded(const float* values, std::size_t count) {
  std::uint32_t most = 0;
  constexpr std::uint32_t exponent = 0x7f800000;
  for (std::size_t i = 0; i < count; ++i) most = std::max(most, std::bit_cast<std::uint32_t>(values[i]) & exponent);
  return most == exponent;
}

/// The place of the first number among `count` stored ones that is NaN or infinite; `count`: there is none.
std::size_t first_unbounded(const std::byte* stored, TensorType type, std::size_t count) {
  if (type == TensorType::float32) {
    const auto* values = reinterpret_cast<const float*>(stored);
    if (!any_unbounded(values, count)) return count;
    return static_cast<std::size_t>(
        std::find_if_not(values, values + count, [](float value) { return std::isfinite(value); }) - values);
  }
  const std::uint16_t exponent = type == TensorType::float16 ? 0x7c00 : 0x7f80;
  const auto* patterns = reinterpret_cast<const std::uint16_t*>(stored);
  if (!any_unbounded(patterns, count, exponent)) return count;
  return static_cast<std::size_t>(
      std::find_if(patterns, patterns + count,
                   [exponent](std::uint16_t pattern) { return (pattern & exponent) == exponent; }) -
      patterns);
}

/// As convert_rows(), of so few that they stay in the nearest cache.
std::size_t convert_block(const std::byte* source, TensorType type, std::size_t count, TensorType target,
                          std::byte* destination, std::vector<float>& scratch) {
  const std::size_t bytes = count * hdf5::element_size(type);
  const auto* values = reinterpret_cast<const float*>(source);
  if (type == target) {
    std::memcpy(destination, source, bytes);
    return first_unbounded(destination, target, count);
  }
  if (type != TensorType::float32) {
    widen_rows({source, bytes}, type, scratch);
    values = scratch.data();
  }
  if (target == TensorType::float16) {
    floats_to_halves(values, reinterpret_cast<std::uint16_t*>(destination), count);
  } else if (target == TensorType::bfloat16) {
    floats_to_bfloats(values, reinterpret_cast<std::uint16_t*>(destination), count);
  } else {
    std::memcpy(destination, values, count * sizeof(float));
  }
  return first_unbounded(destination, target, count);
}

}  // namespace

std::size_t convert_rows(const std::byte* source, TensorType type, std::size_t count, TensorType target,
                         std::byte* destination, std::vector<float>& scratch) {
  constexpr std::size_t block = 4096;
  for (std::size_t done = 0; done < count;) {
    const std::size_t some = std::min(block, count - done);
    const std::size_t stored = convert_block(source + done * hdf5::element_size(type), type, some, target,
                                             destination + done * hdf5::element_size(target), scratch);
    done += stored;
    if (stored < some) return done;
  }
  return count;
}

}  // namespace evictsim::traces::capture

#pragma once
/// \file
/// A DLPack tensor as rows of heads, checked against the model, and its rows gathered into host memory.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "traces/capture/cuda/element.h"
#include "traces/capture/row_batch.h"

namespace evictsim::traces::capture {

/// Where the elements of a tensor lie: row (batch, place) at batch * batch_stride + place * row_stride. Strides count
/// elements.
struct TensorRows {
  const std::byte* data = nullptr;
  ElementType type = ElementType::f32;
  bool on_device = false;
  std::int64_t batches = 1, rows_per_batch = 0;
  std::int64_t heads = 1, width = 1;
  std::int64_t batch_stride = 0, row_stride = 0, head_stride = 0, element_stride = 1;

  [[nodiscard]] std::int64_t rows() const { return batches * rows_per_batch; }
};

/// Reads [.., heads, width] (`with_heads`), or [.., width], with at most two leading axes; `width` 0 reads [..] as rows
/// of one element. Throws Error: wrong_shape, wrong_type, unsupported (a device or element type), invalid_argument.
TensorRows read_tensor_rows(const DLTensor* tensor, const char* name, bool with_heads, std::int64_t heads,
                            std::int64_t width);

/// The rows `source` of a host tensor, of `heads` (empty: all), row-major without gaps: float16, bfloat16 and float32
/// as they are, others as float32. Points into the tensor when it lies there so, else into `scratch`.
std::span<const std::byte> gather_rows(const TensorRows& tensor, std::span<const std::int64_t> source,
                                       std::span<const std::int32_t> heads, std::vector<std::byte>& scratch);

/// The type of what gather_rows gives.
TensorType gathered_type(ElementType type);

/// Any of the three stored types as float32.
void widen_rows(std::span<const std::byte> bytes, TensorType type, std::vector<float>& values);

/// Converts `count` elements to `target`, rounded to nearest even. Returns the place of the first value that `target`
/// cannot hold (NaN, infinity, what rounds to infinity), `count` when there is none; what is written behind it counts
/// for nothing.
std::size_t convert_rows(const std::byte* source, TensorType type, std::size_t count, TensorType target,
                         std::byte* destination, std::vector<float>& scratch);

}  // namespace evictsim::traces::capture

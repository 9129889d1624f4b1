#pragma once
/// \file
/// Gathering rows of a device tensor into one dense block, cast on the way. One body for host and device.

#include <cstdint>

#include "traces/capture/cuda/element.h"
#include "traces/host_device.h"

namespace evictsim::traces::capture {

/// Integers of a list of rows.
enum class IndexType : std::uint8_t { none, int32, int64 };

/// Rows [rows, heads, width] somewhere in device memory. Strides count elements, as in DLPack, and may be 0 or
/// negative.
///
/// Without `indices` source rows are evenly spaced. With them output row r is source row indices[r]: a choice of rows,
/// or the slot mapping of a paged cache, where slot s lies in page s / page_size at place s % page_size. Rows whose
/// index is negative (padding) or not below `index_limit` read as zero: an engine's table must not make a kernel fault.
struct RowSource {
  const void* data = nullptr;
  ElementType type = ElementType::f32;
  std::int64_t heads = 1, width = 1;
  std::int64_t row_stride = 0, head_stride = 0, element_stride = 1;
  const void* indices = nullptr;  ///< [rows], in device memory
  IndexType index_type = IndexType::none;
  std::int64_t index_limit = 0;              ///< one past the largest index that exists
  std::int64_t page_size = 0;                ///< rows per page; 0: not paged
  std::int64_t page_stride = 0;              ///< elements between pages; `row_stride` then counts within a page
  std::int64_t first_row = 0, row_step = 1;  ///< without `indices`: output row r is source row first_row + r * row_step
  std::int64_t first_head = 0, head_step = 1;  ///< output head h is source head first_head + h * head_step
  const std::int32_t* head_indices = nullptr;  ///< [heads], in device memory: these heads instead

  /// Source row of output row `row`; -1 where there is none.
  [[nodiscard]] EVICTSIM_HOST_DEVICE std::int64_t index_of(std::int64_t row) const noexcept {
    if (index_type == IndexType::none) return first_row + row * row_step;
    const std::int64_t index = index_type == IndexType::int64 ? static_cast<const std::int64_t*>(indices)[row]
                                                              : static_cast<const std::int32_t*>(indices)[row];
    return index >= 0 && index < index_limit ? index : -1;
  }

  /// Offset of a source row and head, in elements.
  [[nodiscard]] EVICTSIM_HOST_DEVICE std::int64_t offset_of(std::int64_t index, std::int64_t head) const noexcept {
    const std::int64_t within =
        (head_indices == nullptr ? first_head + head * head_step : head_indices[head]) * head_stride;
    if (page_size == 0) return index * row_stride + within;
    return index / page_size * page_stride + index % page_size * row_stride + within;
  }
};

/// Where a kernel writes: an address, or, inside a CUDA graph, the record of a ring that `grant` names when it runs.
struct KernelOutput {
  unsigned char* base = nullptr;
  const std::uint64_t* grant = nullptr;  ///< null: `base` is the address; else the record's byte position, ever growing
  std::uint64_t ring_bytes = 0;
  std::uint64_t header_bytes = 0;

  static constexpr std::uint64_t no_grant = ~std::uint64_t{0};

  /// The address; null when the ring had no room, and the kernel then writes nothing.
  [[nodiscard]] EVICTSIM_HOST_DEVICE unsigned char* resolve() const noexcept {
    if (grant == nullptr) return base;
    return *grant == no_grant ? nullptr : base + *grant % ring_bytes + header_bytes;
  }
};

/// Output [rows, heads, width] of `stored_type`, dense, row r at place r or places[r]. A value is read as float32,
/// multiplied by `scale` unless that is 1 (float8 caches keep a scale per tensor), and rounded to nearest even once.
struct RowGather {
  RowSource source;
  std::int64_t rows = 0;
  float scale = 1;
  ElementType stored_type = ElementType::f16;
  KernelOutput output;
  const std::int64_t* places = nullptr;  ///< [rows], in device memory

  [[nodiscard]] EVICTSIM_HOST_DEVICE std::int64_t lines() const noexcept { return rows * source.heads; }

  /// Writes every `step`-th element of line `line` (one head of one row) from `first` on.
  EVICTSIM_HOST_DEVICE void operator()(std::int64_t line, std::int64_t first, std::int64_t step) const noexcept {
    unsigned char* const target = output.resolve();
    if (target == nullptr) return;
    const std::int64_t row = line / source.heads, head = line % source.heads;
    const std::int64_t index = source.index_of(row);
    const std::int64_t offset = index < 0 ? 0 : source.offset_of(index, head);
    const std::int64_t place = (places == nullptr ? row : places[row]) * source.heads + head;
    for (std::int64_t i = first; i < source.width; i += step) {
      float value = 0;
      if (index >= 0) value = load_element(source.data, source.type, offset + i * source.element_stride);
      if (scale != 1.0F) value *= scale;
      store_element(target, stored_type, place * source.width + i, value);
    }
  }
};

}  // namespace evictsim::traces::capture

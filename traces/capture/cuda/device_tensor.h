#pragma once
/// \file
/// A DLPack tensor and a selection of its rows, as what the kernels read and write.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "traces/capture/cuda/gather_rows.h"
#include "traces/capture/cuda/runtime.h"
#include "traces/capture/row_batch.h"
#include "traces/header.h"

namespace evictsim::traces::capture {

/// Rows [row_count, heads, width] of a device tensor; leading axes are flattened.
struct DeviceTensor {
  RowSource source;  ///< all rows and heads, without lists
  std::int64_t row_count = 0;
  int device = 0;
};

/// Reads `tensor` as rows of `role` (shapes: traces/capture/evictsim_capture.h). Throws Error: unsupported for memory
/// that is not on a CUDA device, else as read_tensor_rows does.
DeviceTensor describe_tensor(const DLTensor& tensor, Role role);

/// A list of rows or heads that kernels take by first and step where it is evenly spaced, else from device memory.
struct EvenSpacing {
  std::int64_t first = 0, step = 1;
  bool even = true;
};
EvenSpacing spacing_of(const std::vector<std::int64_t>& list);
EvenSpacing spacing_of(const std::vector<std::int32_t>& list);

/// What comes of one selection: the shape of its rows in host memory.
struct StoredRows {
  enum class Kernel : std::uint8_t { gather, logits, comparison, none } kernel = Kernel::gather;
  Role role{};  ///< of the batch; logits become two
  TensorType type = TensorType::float32;
  std::size_t width = 0;         ///< elements per row; of logits: of what they are reduced to
  std::size_t output_bytes = 0;  ///< that the kernel writes
  std::size_t copied_first = 0;  ///< of these, where what the host wants begins
  std::size_t copied_bytes = 0;
};

/// Channels stay float32, tensors take `type`. `rows` and `heads` are how many are taken.
StoredRows stored_rows(const RowSource& source, const RowSelection& selection, TensorType type, std::size_t rows,
                       std::size_t heads);

/// The kernel that writes them: rows and heads of `source` are those that are wanted.
KernelJob row_job(const RowSource& source, const StoredRows& stored, std::size_t rows, const KernelOutput& output);

/// Hands copied rows over, one batch or, for logits, two. `bytes` holds `present` rows, of which the first
/// rows->source.size() are meant, or, with `chosen`, those that rows->source names. `scratch` is used for the latter.
void deliver_rows(RowReceiver& receiver, const RowSelection& selection, const StoredRows& stored,
                  const std::byte* bytes, std::size_t present, bool chosen, std::vector<std::byte>& scratch);

}  // namespace evictsim::traces::capture

#include "traces/capture/cuda/device_tensor.h"

#include <cstring>
#include <string>

#include "traces/capture/sink/tensor_rows.h"
#include "traces/capture/token_statistics.h"

namespace evictsim::traces::capture {
namespace {

/// Axes behind the rows: heads and width, or width alone, or nothing for a channel of one number per row.
int inner_axes(Role role) {
  switch (role) {
    case Role::query:
    case Role::key:
    case Role::value:
      return 2;
    case Role::hidden:
    case Role::after_attention:
    case Role::logits:
    case Role::entropy_top:
      return 1;
    default:
      return 0;
  }
}

ElementType element_of(TensorType type) {
  if (type == TensorType::float32) return ElementType::f32;
  return type == TensorType::float16 ? ElementType::f16 : ElementType::bf16;
}

Role delivered_role(Measure measure) {
  switch (measure) {
    case Measure::step:
      return Role::step_norm;
    case Measure::attention_cosine:
      return Role::cos_attention;
    case Measure::final_cosine:
      return Role::cos_final;
    default:
      return Role::residual_norm;
  }
}

template <typename Index>
EvenSpacing spacing(const std::vector<Index>& list) {
  EvenSpacing result;
  if (!list.empty()) result.first = list[0];
  if (list.size() > 1) result.step = static_cast<std::int64_t>(list[1]) - list[0];
  for (std::size_t i = 1; i < list.size(); ++i) {
    result.even = result.even && static_cast<std::int64_t>(list[i]) - list[i - 1] == result.step;
  }
  return result;
}

}  // namespace

DeviceTensor describe_tensor(const DLTensor& tensor, Role role) {
  const int inner = inner_axes(role);
  const auto extent = [&](int from_last) {
    const int axis = tensor.ndim - from_last;
    return tensor.shape == nullptr || axis < 0 || from_last > inner ? 0 : tensor.shape[axis];
  };
  const TensorRows rows = read_tensor_rows(&tensor, "tensor", inner == 2, extent(2), extent(1));
  if (!rows.on_device) {
    throw Error(ErrorCode::unsupported, "the copy engine reads memory of CUDA devices; this tensor is in host memory",
                {.parameter = "tensor"});
  }
  DeviceTensor result;
  result.row_count = rows.rows();
  result.device = tensor.device.device_id;
  RowSource& source = result.source;
  source.data = rows.data;
  source.type = rows.type;
  source.heads = rows.heads;
  source.width = rows.width;
  source.row_stride = rows.row_stride;
  source.head_stride = rows.head_stride;
  source.element_stride = rows.element_stride;
  if (rows.batches > 1) {  // a batch of rows is laid out as pages are
    source.page_size = rows.rows_per_batch;
    source.page_stride = rows.batch_stride;
  }
  return result;
}

EvenSpacing spacing_of(const std::vector<std::int64_t>& list) { return spacing(list); }
EvenSpacing spacing_of(const std::vector<std::int32_t>& list) { return spacing(list); }

StoredRows stored_rows(const RowSource& source, const RowSelection& selection, TensorType type, std::size_t rows,
                       std::size_t heads) {
  const Role role = selection.role;
  StoredRows result;
  result.role = role;
  if (role == Role::logits) {
    result.kernel = StoredRows::Kernel::logits;
    result.width = 1 + entropy_tops.size();
    result.output_bytes = rows * static_cast<std::size_t>(LogitRows::row_bytes);
  } else if (is_hold(selection.measure)) {
    result.kernel = StoredRows::Kernel::none;
  } else if (selection.measure != Measure::rows) {
    result.kernel = StoredRows::Kernel::comparison;
    result.role = delivered_role(selection.measure);
    result.width = 1;
    result.output_bytes = rows * static_cast<std::size_t>(ComparisonRows::row_bytes);
    const std::size_t part = selection.measure == Measure::norm   ? ComparisonRows::norm_part
                             : selection.measure == Measure::step ? ComparisonRows::distance_part
                                                                  : ComparisonRows::cosine_part;
    result.copied_first = part * rows * sizeof(float);
  } else {
    const bool tensor = inner_axes(role) == 2 || role == Role::hidden || role == Role::after_attention;
    if (tensor) result.type = type;
    result.width = heads * static_cast<std::size_t>(source.width);
    result.output_bytes = rows * result.width * element_bytes(element_of(result.type));
  }
  result.copied_bytes = rows * result.width * element_bytes(element_of(result.type));
  return result;
}

KernelJob row_job(const RowSource& source, const StoredRows& stored, std::size_t rows, const KernelOutput& output) {
  const auto count = static_cast<std::int64_t>(rows);
  if (stored.kernel == StoredRows::Kernel::gather)
    return RowGather{source, count, 1.0F, element_of(stored.type), output};
  if (stored.kernel == StoredRows::Kernel::comparison) return RowComparison{source, {}, {}, count, output};
  LogitStatistics job;
  job.source = source;
  job.rows = count;
  for (std::size_t top = 0; top < entropy_tops.size(); ++top) {
    job.tops[top] = static_cast<std::uint32_t>(entropy_tops[top]);
  }
  job.output = output;
  return job;
}

void deliver_rows(RowReceiver& receiver, const RowSelection& selection, const StoredRows& stored,
                  const std::byte* bytes, std::size_t present, bool chosen, std::vector<std::byte>& scratch) {
  const std::vector<std::int64_t>& source = selection.rows->source;
  const auto deliver = [&](Role role, const std::byte* first, std::size_t width) {
    const std::size_t row_bytes = width * element_bytes(element_of(stored.type));
    std::span<const std::byte> rows(first, source.size() * row_bytes);
    if (chosen && !source.empty() && source.back() + 1 != static_cast<std::int64_t>(source.size())) {
      scratch.resize(rows.size());
      for (std::size_t i = 0; i < source.size(); ++i) {
        std::memcpy(scratch.data() + i * row_bytes, first + static_cast<std::size_t>(source[i]) * row_bytes, row_bytes);
      }
      rows = scratch;
    }
    receiver.receive({role, selection.layer, stored.type, width, selection.rows, rows});
  };
  if (stored.kernel != StoredRows::Kernel::logits) {
    deliver(stored.role, bytes, stored.width);
    return;
  }
  deliver(Role::entropy, bytes, 1);
  deliver(Role::entropy_top, bytes + present * sizeof(float), entropy_tops.size());
}

}  // namespace evictsim::traces::capture

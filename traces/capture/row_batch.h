#pragma once
/// \file
/// How rows of an engine's tensors reach the sink on the host, whatever copied them: the CPU path copies inside the
/// call, a device path (traces/capture/cuda) copies behind a stream and delivers later.

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "traces/capture/dlpack/dlpack.h"
#include "traces/error.h"
#include "traces/header.h"

namespace evictsim::traces::capture {

/// What a tensor holds; the numbers and shapes are those of traces/capture/evictsim_capture.h.
enum class Role : std::int32_t {
  query,
  key,
  value,
  hidden,
  after_attention,
  logits,
  entropy,
  entropy_top,
  logprob,
  step_norm,
  cos_final,
  cos_attention,
  residual_norm,
  final_norm_input,
};
inline constexpr int role_count = 14;

/// Which forward pass of a request rows come from: the one over its sequence, or one beside it. The numbers are those
/// of traces/capture/evictsim_capture.h.
enum class Pass : std::int32_t { sequence, second, wrapped, behind_wrapped, bare, behind_bare };
inline constexpr std::size_t pass_count = 6;
inline constexpr std::array passes_beside = {Pass::second, Pass::wrapped, Pass::behind_wrapped, Pass::bare,
                                             Pass::behind_bare};

/// Where one row belongs: a request, by the sink's own number, and its token row there.
struct RowOrigin {
  std::uint64_t request = 0;
  std::int32_t token = 0;  ///< in a pass beside the sequence: the row of that pass
};

/// The rows wanted of a step's tensors. Shared by all tensors of the step that are sampled alike; immutable.
struct RowMap {
  std::uint64_t step = 0;            ///< ascending from 0
  std::vector<std::int64_t> source;  ///< row of the tensor (flattened over its leading axes), ascending
  std::vector<RowOrigin> origin;     ///< one per entry of `source`; ascending token rows within a request
  Pass pass = Pass::sequence;
};

/// What becomes of the selected rows. All but `rows` deliver one number per row, [rows, 1], or nothing.
enum class Measure : std::uint8_t {
  rows,                ///< the rows themselves
  norm,                ///< of `hidden`: L2 norms, as role `residual_norm`
  step,                ///< of `hidden`: L2 distance from the row before in the same request, as role `step_norm`
  attention_cosine,    ///< of `after_attention`: cosine with the rows held for it, as role `cos_attention`
  final_cosine,        ///< of `hidden`: cosine with the rows held of that layer, as role `cos_final`
  hold_for_attention,  ///< of `hidden`: stays on the device for `attention_cosine`, in place of what was held for it
  hold_for_final,      ///< of `hidden`: stays on the device for `final_cosine` of that layer in the same step
};

/// Whether rows stay on the device and nothing comes back.
inline bool is_hold(Measure measure) {
  return measure == Measure::hold_for_attention || measure == Measure::hold_for_final;
}
/// Whether it takes rows of two tensors, or of two steps.
inline bool is_comparison(Measure measure) { return measure != Measure::rows && measure != Measure::norm; }

/// What is wanted of one tensor.
struct RowSelection {
  Role role{};
  int layer = 0;  ///< index in the model; of a comparison the layer that the number is about
  std::shared_ptr<const RowMap> rows;
  std::vector<std::int32_t> heads;  ///< of tensors with heads: the heads taken, ascending; empty: all
  Measure measure = Measure::rows;
};

/// Rows that have arrived in host memory: [rows, width], row-major without gaps, heads beside each other.
struct RowBatch {
  Role role{};
  int layer = 0;
  TensorType type = TensorType::float32;  ///< of `bytes`
  std::size_t width = 0;                  ///< elements per row: kept heads times d, D, vocab, 1 or 3
  std::shared_ptr<const RowMap> rows;
  std::span<const std::byte> bytes;  ///< valid during the call
};

/// The sink's side. Any thread may call; calls of one (role, layer) come one after the other in the order of their
/// steps, each selection exactly once, either as received or as dropped. May wait: that is the back-pressure.
class RowReceiver {
 public:
  virtual ~RowReceiver() = default;
  virtual void receive(const RowBatch& batch) = 0;
  /// The rows of that selection will not come (a full ring in drop mode).
  virtual void dropped(const RowSelection& selection) = 0;
  /// Nothing will come any more, for that reason (a lost device context). The sink's next call reports it.
  virtual void failed(const Error& error) = 0;
};

/// Settings of a device path.
struct DeviceOptions {
  std::size_t ring_bytes = std::size_t{256} << 20;  ///< pinned host memory, allocated once
  bool drop = false;                                ///< when the ring is full: drop (and say so), else wait
  TensorType type = TensorType::float16;            ///< of q, k, v, x; cast on the device. Channels stay float32.
  std::size_t graph_ring_bytes = 0;  ///< for rows written inside CUDA graphs, on the device and pinned; 0: none
  std::size_t history_bytes = 0;     ///< device memory for rows that others are compared with; 0: no comparisons
};

/// Copies rows of device tensors to the host. Logits are reduced on the device: from a selection of role `logits` the
/// receiver gets batches of role `entropy` [rows, 1] and `entropy_top` [rows, 3], float32. Comparisons whose other row
/// is not on the device, for lack of room or because it never came, arrive as NaN or are dropped; selections that hold
/// rows are neither received nor dropped.
class DeviceCopier {
 public:
  virtual ~DeviceCopier() = default;
  /// Starts the copy behind what `stream` has been given; the tensor's memory may be used again in stream order.
  /// The tensor's shape, type and strides were checked against the model. Throws Error (unsupported, invalid_argument,
  /// device_failure, out_of_memory); the selection then counts as refused, and nothing of it arrives.
  virtual void copy(const DLTensor& tensor, const RowSelection& selection, void* stream) = 0;
  /// Returns when everything given so far was delivered or dropped.
  virtual void drain() = 0;
  /// No row of that request will come any more: what the device holds of it is given up. Never waits.
  virtual void forget(std::uint64_t request) noexcept = 0;

  /// The CUDA graph that `stream` is being captured into, 0 for none. Tensors copied meanwhile become part of it; the
  /// rows of their selections are not looked at.
  virtual std::uint64_t graph_of(void* stream) = 0;
  /// The rows of a tensor that a graph copies which are meant in one replay; null: none of it is wanted.
  using ReplayRows = std::function<std::shared_ptr<const RowMap>(const RowSelection& copied)>;
  /// Between the two calls the caller launches `graph` once, on `stream`: each of its tensors then arrives, or is
  /// dropped, with the rows that `rows_of` said.
  virtual void begin_replay(std::uint64_t graph, const ReplayRows& rows_of, void* stream) = 0;
  virtual void end_replay() = 0;
};

/// The device path of this build. Throws Error(unsupported) in a build without CUDA or on a machine without a driver,
/// naming which. `receiver` must outlive the copier.
std::unique_ptr<DeviceCopier> make_device_copier(RowReceiver& receiver, const DeviceOptions& options);

}  // namespace evictsim::traces::capture

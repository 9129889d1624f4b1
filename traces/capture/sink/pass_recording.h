#pragma once
/// \file
/// A forward pass of one request beside its sequence: a second pass, documents read alone, what stands behind them.

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "traces/capture/row_batch.h"
#include "traces/capture/sink/capture_options.h"
#include "traces/capture/sink/chunk_stream.h"

namespace evictsim::traces::capture {

/// Whether rows of that tensor belong to a pass beside a sequence.
bool pass_takes(Pass pass, Role role);
/// Whether the pass is of no use without it.
bool pass_needs(Pass pass, LayerTensor tensor);

/// Why rows of a pass are lost.
struct PassLoss {
  std::string reason;
  bool bad_value = false;
};

/// Not thread-safe. A pass of which a row is lost is left out as a whole.
class PassRecording {
 public:
  /// `rows` of the whole pass; absent: as many as come. `model` and `options` must outlive this object.
  PassRecording(Pass pass, std::optional<std::size_t> rows, const ModelRecord& model, const CaptureOptions& options);

  static std::size_t most_pending_bytes(const ModelRecord& model, const CaptureOptions& options);

  /// Throws Error(invalid_argument) when `count` rows from `first` on are not the pass's next ones.
  void require_next(std::int64_t first, std::int64_t count) const;
  void announce(std::int64_t count) { announced_ += static_cast<std::size_t>(count); }

  /// Rows of one tensor of a layer, from row `first` of the pass on.
  std::optional<PassLoss> append(std::size_t layer, LayerTensor tensor, std::size_t first, std::size_t rows,
                                 std::span<const std::byte> bytes, TensorType type, const TakeChunk& take,
                                 std::vector<float>& scratch);
  void lose() { lost_ = true; }
  [[nodiscard]] bool is_lost() const { return lost_; }
  [[nodiscard]] bool is_empty() const { return announced_ == 0; }

  /// Whether every tensor has `rows` rows, or none where it may be missing.
  [[nodiscard]] bool has(std::size_t rows) const;
  void finish(std::size_t rows, const TakeChunk& take);

 private:
  Pass pass_;
  std::optional<std::size_t> rows_;
  const ModelRecord* model_;
  const CaptureOptions* options_;
  std::size_t announced_ = 0;
  bool lost_ = false;
  std::vector<ChunkStream> streams_;  ///< per captured layer: k, v, q
};

}  // namespace evictsim::traces::capture

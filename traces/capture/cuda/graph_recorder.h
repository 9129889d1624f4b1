#pragma once
/// \file
/// Rows of tensors inside CUDA graphs: puts the kernels of traces/capture/cuda/graph_ring.h into a graph while it is
/// captured, and fetches what its replays wrote. All memory is allocated when this is made.

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <vector>

#include "traces/capture/cuda/device_tensor.h"
#include "traces/capture/cuda/resource.h"
#include "traces/capture/row_batch.h"

namespace evictsim::traces::capture {

/// One tensor captured into one graph.
struct GraphSite {
  RowSelection selection;  ///< its rows are a replay's own
  StoredRows stored;
  std::size_t rows = 0;  ///< of the tensor; a replay fills all of them, padding too
  std::size_t number = 0;
};

/// What one replay left of one site, in pinned memory.
struct GraphRecord {
  std::size_t site = 0;
  const std::byte* bytes = nullptr;
};

class GraphRecorder {
 public:
  /// `ring_bytes` of device memory and as many of pinned memory; at most `sites` tensors over all graphs.
  GraphRecorder(CudaRuntime& runtime, std::size_t ring_bytes, std::size_t sites);
  ~GraphRecorder();
  GraphRecorder(const GraphRecorder&) = delete;
  GraphRecorder& operator=(const GraphRecorder&) = delete;

  /// Captures all rows of `tensor` into the graph `graph`. Throws Error (unsupported): more sites or larger records
  /// than there is room for, heads that are not evenly spaced.
  void record(const DeviceTensor& tensor, const RowSelection& selection, TensorType type, std::uint64_t graph,
              CudaStream stream);
  /// The sites of a graph in the order of their capture. Throws Error (invalid_argument) for an unknown graph.
  [[nodiscard]] std::vector<GraphSite> sites_of(std::uint64_t graph) const;

  /// What graphs launched on `stream` from here on write belongs to `step`; 0: to nothing.
  void announce(std::uint64_t step, CudaStream stream);

  /// What was written for `step`, at most one record per site, in the order of writing; valid until release(). Records
  /// without a step, or a second time, are counted. All of the step's kernels must have finished.
  std::vector<GraphRecord> fetch(std::uint64_t step);
  /// Gives the room of what was fetched back to the device.
  void release();

  /// Rows written outside of an announced step, and rows dropped because two graphs ran at once; as of the last fetch.
  [[nodiscard]] std::uint64_t unannounced_rows() const;
  [[nodiscard]] std::uint64_t conflicting_rows() const;

 private:
  struct Pinned {
    GraphRingState state;
    std::uint64_t consumed;
  };
  [[nodiscard]] GraphSite site(std::size_t number) const;
  void stage(std::uint64_t end);
  GraphSite add_site(const DeviceTensor& tensor, const RowSelection& selection, TensorType type, std::uint64_t graph);

  CudaRuntime& runtime_;
  std::uint64_t ring_bytes_;
  std::size_t most_sites_;
  CudaResource stream_, ring_, control_, staging_, pinned_;
  GraphRingState* state_ = nullptr;    // in control_, on the device
  std::uint64_t* consumed_ = nullptr;  // likewise
  std::uint64_t* grants_ = nullptr;    // likewise, one per site
  std::uint64_t taken_ = 0;            // the host's cursor; what is before it may be overwritten
  std::uint64_t next_ = 0;             // what release() makes of it

  mutable std::mutex mutex_;  // what is captured and what is fetched are different threads' business
  std::vector<GraphSite> sites_;
  std::map<std::uint64_t, std::vector<std::size_t>> graphs_;
  std::uint64_t unannounced_rows_ = 0, conflicting_rows_ = 0;
};

}  // namespace evictsim::traces::capture

#pragma once
/// \file
/// Moves rows of device tensors into host memory behind the engine's back: a kernel on the engine's own stream gathers
/// and casts them into a device slot, a stream of ours waits for it and copies the slot into pinned memory, and a
/// thread hands what has arrived to the sink, in the order it was given. docs/capture.md, "The copy engine".

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "traces/capture/cuda/copy_ring.h"
#include "traces/capture/cuda/device_tensor.h"
#include "traces/capture/cuda/graph_recorder.h"
#include "traces/capture/cuda/resource.h"
#include "traces/capture/cuda/row_history.h"
#include "traces/capture/row_batch.h"

namespace evictsim::traces::capture {

struct CopyEngineOptions : DeviceOptions {
  int device = 0;
  std::size_t pending = 1024;       ///< selections on their way at most; each holds one event
  std::size_t graph_sites = 16384;  ///< tensors captured into CUDA graphs, over all graphs
  bool background = true;  ///< a thread of its own delivers; false: copy() and drain() do, where they have to wait
};

/// Rows are counted per selection: a token row of three tensors counts three times. Every row taken in ends in exactly
/// one of delivered, dropped and lost.
struct CopyCounters {
  std::uint64_t rows = 0;              ///< taken in
  std::uint64_t delivered_rows = 0;    ///< received by the sink
  std::uint64_t dropped_rows = 0;      ///< for lack of room, and said so to the sink
  std::uint64_t lost_rows = 0;         ///< on their way when the engine failed; told to the sink as dropped
  std::uint64_t bytes = 0;             ///< copied to the host for the sink
  std::uint64_t waits = 0;             ///< calls that waited for room
  std::uint64_t unannounced_rows = 0;  ///< written by CUDA graphs that were launched outside of begin_replay/end_replay
  std::uint64_t conflicting_rows = 0;  ///< among the dropped: two graphs ran at once
  std::uint64_t held_bytes = 0;        ///< of device memory, for rows that others will be compared with
  std::uint64_t unmatched_rows = 0;    ///< delivered as NaN or dropped, since the row to compare with is not held
};

class CopyEngine final : public DeviceCopier {
 public:
  /// Allocates everything that it will ever use. Throws Error (out_of_memory, device_failure, invalid_argument).
  CopyEngine(std::shared_ptr<CudaRuntime> runtime, RowReceiver& receiver, const CopyEngineOptions& options);
  ~CopyEngine() override;
  CopyEngine(const CopyEngine&) = delete;
  CopyEngine& operator=(const CopyEngine&) = delete;

  /// Throws Error: what the tensor or selection has wrong, or more than fits (nothing was taken in then); unsupported
  /// for a stream whose capture the rows cannot follow; device_failure or out_of_memory when CUDA fails, and after it.
  ///
  /// While `stream` is being captured into a CUDA graph, kernels are put into the graph instead: all rows of the tensor
  /// are written by each replay, and `selection.rows` is not looked at. Waiting for room is not possible there, so such
  /// an engine must have been opened with `drop`.
  void copy(const DLTensor& tensor, const RowSelection& selection, void* stream) override;

  std::uint64_t graph_of(void* stream) override;
  void begin_replay(std::uint64_t graph, const ReplayRows& rows_of, void* stream) override;
  void end_replay() override;

  /// All replays that were announced must have been ended.
  void drain() override;

  void forget(std::uint64_t request) noexcept override { history_.forget(request); }

  [[nodiscard]] CopyCounters counters() const;

 private:
  /// One selection, or one replay of a graph, on its way to the sink.
  struct Pending {
    enum class Kind : std::uint8_t { copied, held, empty, dropped, replayed } kind = Kind::copied;
    RowSelection selection;
    StoredRows stored;
    std::size_t offset = 0;  ///< of the rows, in pinned memory
    CudaEvent arrived = nullptr;
    std::uint64_t step = 0;
    std::vector<GraphSite> sites;  ///< of a replay, with the rows that are meant
    std::uint64_t rows = 0;        ///< for the counters
  };
  /// Room for one selection.
  struct Room {
    std::size_t offset = 0;
    CudaEvent arrived = nullptr;
  };

  void require_working() const;
  [[nodiscard]] StreamCapture capture_state(CudaStream stream);
  void check(const DeviceTensor& tensor, const RowSelection& selection, bool with_rows) const;
  void copy_rows(const DeviceTensor& tensor, const RowSelection& selection, CudaStream stream);
  void enqueue(const DeviceTensor& tensor, const RowSelection& selection, const StoredRows& stored, const Room& room,
               std::size_t list_bytes, CudaStream stream);
  void enqueue_comparison(const DeviceTensor& tensor, const RowSelection& selection, const StoredRows& stored,
                          const Room& room, std::size_t list_bytes, CudaStream stream);
  void start_copy_to_host(const StoredRows& stored, std::size_t offset, const Room& room, CudaStream stream);
  std::optional<Room> find_room(std::size_t bytes, bool wait);
  /// Until something was delivered, or may have been: waits for the background thread, or delivers here.
  void let_deliver(std::unique_lock<std::mutex>& lock);
  void push(Pending pending);
  void fail(const Error& error) noexcept;

  bool deliver_next();
  bool arrived(const Pending& pending, std::optional<Error>& problem);
  void give_up(const Pending& pending);
  void deliver(const Pending& pending, CopyCounters& outcome);
  void deliver_replay(const Pending& pending, CopyCounters& outcome);
  void report_failure();
  void work();

  std::shared_ptr<CudaRuntime> runtime_;
  RowReceiver& receiver_;
  CopyEngineOptions options_;
  CopyRing ring_;
  RowHistory history_;
  CudaResource side_stream_, device_ring_, pinned_ring_, gathered_, replayed_, held_rows_, compared_;
  std::vector<CudaResource> events_;
  std::optional<GraphRecorder> graphs_;

  std::mutex submitting_;  // held by copy() and the replay calls: the order of the ring is that of the streams
  bool compared_before_ = false;
  std::uint64_t last_step_ = 0;
  bool replay_open_ = false, replay_ended_ = false;
  Pending replay_;
  CudaStream replay_stream_ = nullptr;

  std::mutex delivering_;  // held while one selection is delivered: order
  std::vector<std::byte> scratch_;

  mutable std::mutex mutex_;  // held shortly; never while CUDA or the sink is called
  std::condition_variable changed_;
  std::deque<Pending> pending_;
  std::vector<CudaEvent> free_events_;
  std::uint64_t taken_ = 0, finished_ = 0;  // selections and replays
  CopyCounters counters_;
  std::optional<Error> failure_;
  bool discarding_ = false, reported_ = false, closing_ = false;
  std::thread worker_;
};

}  // namespace evictsim::traces::capture

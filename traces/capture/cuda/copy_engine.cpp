#include "traces/capture/cuda/copy_engine.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

constexpr std::size_t smallest_ring = 4096;

Error wrong(ErrorCode code, const std::string& rule, const std::string& parameter, const std::string& value) {
  return {code, rule, {.parameter = parameter, .value = value}};
}

}  // namespace

CopyEngine::CopyEngine(std::shared_ptr<CudaRuntime> runtime, RowReceiver& receiver, const CopyEngineOptions& options)
    : runtime_(std::move(runtime)),
      receiver_(receiver),
      options_(options),
      ring_(options.ring_bytes),
      history_(options.history_bytes) {
  if (options.ring_bytes < smallest_ring || options.pending == 0) {
    throw wrong(ErrorCode::invalid_argument, "the ring needs at least 4096 bytes, and one selection must fit",
                "ring_bytes", std::to_string(options.ring_bytes));
  }
  const CurrentDevice current(*runtime_, options_.device);
  const RelaxedCapture relaxed(*runtime_);
  require(runtime_->load_kernels(), "loading the kernels");
  side_stream_ = CudaResource::stream(*runtime_);
  device_ring_ = CudaResource::device_memory(*runtime_, ring_.bytes());
  pinned_ring_ = CudaResource::pinned_memory(*runtime_, ring_.bytes());
  gathered_ = CudaResource::event(*runtime_);
  replayed_ = CudaResource::event(*runtime_);
  if (options_.history_bytes > 0) {
    held_rows_ = CudaResource::device_memory(*runtime_, options_.history_bytes);
    compared_ = CudaResource::event(*runtime_);
  }
  for (std::size_t i = 0; i < options_.pending; ++i) {
    events_.push_back(CudaResource::event(*runtime_));
    free_events_.push_back(events_.back().get());
  }
  if (options_.graph_ring_bytes > 0) {
    graphs_.emplace(*runtime_, options_.graph_ring_bytes, options_.graph_sites);
  }
  if (options_.background) worker_ = std::thread([this] { work(); });
}

CopyEngine::~CopyEngine() {
  drain();
  {
    const std::scoped_lock lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  if (worker_.joinable()) worker_.join();
  int previous = 0;
  CaptureMode mode = CaptureMode::relaxed;
  const CudaResult selected = runtime_->exchange_device(options_.device, previous);
  const CudaResult relaxed = runtime_->exchange_capture_mode(mode);
  // After a failure kernels may still write to our memory; a lost context says so again, and then nothing runs.
  if (failure_ && selected.ok()) static_cast<void>(runtime_->synchronize_device());
  graphs_.reset();
  events_.clear();
  for (CudaResource* resource :
       {&compared_, &held_rows_, &replayed_, &gathered_, &pinned_ring_, &device_ring_, &side_stream_}) {
    resource->reset();
  }
  if (relaxed.ok()) static_cast<void>(runtime_->exchange_capture_mode(mode));
  int ours = 0;
  if (selected.ok()) static_cast<void>(runtime_->exchange_device(previous, ours));
}

void CopyEngine::require_working() const {
  const std::scoped_lock lock(mutex_);
  if (failure_) throw Error(*failure_);
}

StreamCapture CopyEngine::capture_state(CudaStream stream) {
  StreamCapture capture;
  require(runtime_->capture_of(stream, capture), "asking whether the stream is being captured");
  if (capture.state == StreamCapture::State::invalidated) {
    throw Error(ErrorCode::unsupported, "the stream's capture into a CUDA graph has been invalidated; end it first",
                {.parameter = "stream"});
  }
  return capture;
}

void CopyEngine::check(const DeviceTensor& tensor, const RowSelection& selection, bool with_rows) const {
  if (tensor.device != options_.device) {
    throw wrong(ErrorCode::unsupported, "one capture reads one device, which is " + std::to_string(options_.device),
                "device", std::to_string(tensor.device));
  }
  for (const std::int32_t head : selection.heads) {
    if (head >= 0 && head < tensor.source.heads) continue;
    throw wrong(ErrorCode::invalid_argument, "the tensor has " + std::to_string(tensor.source.heads) + " heads", "head",
                std::to_string(head));
  }
  if (!with_rows) return;
  for (const std::int64_t row : selection.rows->source) {
    if (row >= 0 && row < tensor.row_count) continue;
    throw wrong(ErrorCode::invalid_argument, "the tensor has " + std::to_string(tensor.row_count) + " rows", "row",
                std::to_string(row));
  }
}

void CopyEngine::copy(const DLTensor& tensor, const RowSelection& selection, void* stream) {
  const DeviceTensor described = describe_tensor(tensor, selection.role);
  const std::scoped_lock submit(submitting_);
  require_working();
  const CurrentDevice current(*runtime_, options_.device);
  const StreamCapture capture = capture_state(stream);
  const bool captured = capture.state == StreamCapture::State::active;
  check(described, selection, !captured);
  if (!captured) {
    copy_rows(described, selection, stream);
    return;
  }
  const ProfiledRange range(*runtime_, "evictsim: put copy into graph");
  if (!options_.drop) {
    throw Error(ErrorCode::unsupported,
                "the stream is being captured into a CUDA graph, and a graph cannot wait for room; open with drop");
  }
  if (is_comparison(selection.measure)) {
    throw Error(ErrorCode::unsupported, "rows inside a CUDA graph are not compared with others");
  }
  if (!graphs_) {
    throw wrong(ErrorCode::unsupported, "the stream is being captured into a CUDA graph, which needs a ring of its own",
                "graph_ring_bytes", "0");
  }
  graphs_->record(described, selection, options_.type, capture.graph, stream);
}

void CopyEngine::copy_rows(const DeviceTensor& tensor, const RowSelection& selection, CudaStream stream) {
  const std::size_t rows = selection.rows->source.size();
  const auto heads = selection.heads.empty() ? static_cast<std::size_t>(tensor.source.heads) : selection.heads.size();
  Pending pending;
  pending.selection = selection;
  pending.stored = stored_rows(tensor.source, selection, options_.type, rows, heads);
  const bool compares = is_comparison(selection.measure), holds = is_hold(selection.measure);
  if (!holds) pending.rows = rows;
  if (rows == 0 || (pending.stored.output_bytes == 0 && !holds)) {
    if (holds) return;
    pending.kind = Pending::Kind::empty;
    push(std::move(pending));
    return;
  }
  if (compares && !history_.can_take(selection, tensor.source.heads * tensor.source.width)) {
    if (holds) return;
    pending.kind = Pending::Kind::dropped;
    push(std::move(pending));
    return;
  }
  std::size_t list_bytes = 0;
  if (compares) {
    list_bytes = RowHistory::list_bytes(selection.measure, rows);
  } else {
    if (!spacing_of(selection.rows->source).even) list_bytes += rows * sizeof(std::int64_t);
    if (!spacing_of(selection.heads).even) list_bytes += heads * sizeof(std::int32_t);
  }
  const std::size_t bytes = CopyRing::rounded(list_bytes) + CopyRing::rounded(pending.stored.output_bytes);
  if (bytes > ring_.bytes()) {
    throw wrong(
        ErrorCode::invalid_argument,
        "one tensor's rows need " + std::to_string(bytes) + " bytes in one piece; enlarge the ring or take fewer",
        "ring_bytes", std::to_string(ring_.bytes()));
  }
  const std::optional<Room> room = find_room(bytes, !options_.drop);
  if (!room) {
    if (compares) history_.miss(selection);
    if (holds) return;
    pending.kind = Pending::Kind::dropped;
    push(std::move(pending));
    return;
  }
  if (holds) pending.kind = Pending::Kind::held;
  pending.offset = room->offset + CopyRing::rounded(list_bytes);
  pending.arrived = room->arrived;
  try {
    if (compares) {
      enqueue_comparison(tensor, selection, pending.stored, *room, list_bytes, stream);
    } else {
      enqueue(tensor, selection, pending.stored, *room, list_bytes, stream);
    }
  } catch (const Error& error) {
    {
      const std::scoped_lock lock(mutex_);
      counters_.rows += pending.rows;
      counters_.lost_rows += pending.rows;
    }
    // Part of the sequence may be under way, so its room cannot be used again: the capture is over.
    fail(error);
    throw;
  }
  push(std::move(pending));
}

void CopyEngine::enqueue(const DeviceTensor& tensor, const RowSelection& selection, const StoredRows& stored,
                         const Room& room, std::size_t list_bytes, CudaStream stream) {
  const std::vector<std::int64_t>& rows = selection.rows->source;
  RowSource source = tensor.source;
  unsigned char* const device = device_ring_.bytes() + room.offset;
  unsigned char* const pinned = pinned_ring_.bytes() + room.offset;
  const ProfiledRange range(*runtime_, "evictsim: enqueue copy");
  const EvenSpacing row_spacing = spacing_of(rows);
  std::size_t used = 0;
  if (row_spacing.even) {
    source.first_row = row_spacing.first;
    source.row_step = row_spacing.step;
  } else {
    used = rows.size() * sizeof(std::int64_t);
    std::memcpy(pinned, rows.data(), used);
    source.indices = device;
    source.index_type = IndexType::int64;
    source.index_limit = tensor.row_count;
  }
  if (!selection.heads.empty()) {
    const EvenSpacing head_spacing = spacing_of(selection.heads);
    source.heads = static_cast<std::int64_t>(selection.heads.size());
    source.first_head = head_spacing.first;
    source.head_step = head_spacing.step;
    if (!head_spacing.even) {
      std::memcpy(pinned + used, selection.heads.data(), list_bytes - used);
      source.head_indices = reinterpret_cast<const std::int32_t*>(device + used);
    }
  }
  if (list_bytes > 0) require(runtime_->copy_to_device(device, pinned, list_bytes, stream), "copying a list of rows");
  const std::size_t lists = CopyRing::rounded(list_bytes);
  KernelOutput output;
  output.base = device + lists;
  require(runtime_->launch(row_job(source, stored, rows.size(), output), stream),
          "launching a kernel that gathers rows");
  start_copy_to_host(stored, room.offset + lists, room, stream);
}

/// Copies what the kernels on `stream` wrote at `offset` of the ring to the same place of pinned memory.
void CopyEngine::start_copy_to_host(const StoredRows& stored, std::size_t offset, const Room& room, CudaStream stream) {
  const std::size_t first = offset + stored.copied_first;
  require(runtime_->record_event(gathered_.get(), stream), "recording an event on the engine's stream");
  require(runtime_->wait_event(side_stream_.get(), gathered_.get()), "letting the copy stream wait");
  require(runtime_->copy_to_host(pinned_ring_.bytes() + first, device_ring_.bytes() + first, stored.copied_bytes,
                                 side_stream_.get()),
          "starting a copy to the host");
  require(runtime_->record_event(room.arrived, side_stream_.get()), "recording an event on the copy stream");
}

/// Reads and writes rows that are held: those calls follow each other, whatever streams they come on.
void CopyEngine::enqueue_comparison(const DeviceTensor& tensor, const RowSelection& selection, const StoredRows& stored,
                                    const Room& room, std::size_t list_bytes, CudaStream stream) {
  const RowHistory::Plan plan = history_.take(selection);
  const std::vector<std::int64_t>& rows = selection.rows->source;
  unsigned char* const device = device_ring_.bytes() + room.offset;
  unsigned char* const pinned = pinned_ring_.bytes() + room.offset;
  std::size_t used = 0;
  const auto upload = [&](const std::vector<std::int64_t>& list) {
    std::memcpy(pinned + used, list.data(), list.size() * sizeof(std::int64_t));
    const auto* const place = reinterpret_cast<const std::int64_t*>(device + used);
    used += list.size() * sizeof(std::int64_t);
    return place;
  };
  const auto rows_of_tensor = [&](const std::vector<std::int64_t>& list) {
    RowSource source = tensor.source;
    source.indices = upload(list);
    source.index_type = IndexType::int64;
    source.index_limit = tensor.row_count;
    return source;
  };
  const std::int64_t width = tensor.source.heads * tensor.source.width;
  const ProfiledRange range(*runtime_, "evictsim: enqueue comparison");
  std::vector<KernelJob> jobs;
  if (!is_hold(selection.measure)) {
    RowComparison job;
    job.first = rows_of_tensor(rows);
    job.rows = static_cast<std::int64_t>(rows.size());
    job.output.base = device + CopyRing::rounded(list_bytes);
    RowSource held{held_rows_.get(), ElementType::f32, 1, width, width, 0, 1, upload(plan.held),
                   IndexType::int64, history_.rows()};
    if (selection.measure == Measure::step) {
      job.second = rows_of_tensor(plan.within);
      job.otherwise = held;
    } else {
      job.second = held;
    }
    jobs.emplace_back(job);
  }
  if (!plan.kept.empty()) {
    RowGather job;
    job.source = rows_of_tensor(plan.kept);
    job.rows = static_cast<std::int64_t>(plan.kept.size());
    job.stored_type = ElementType::f32;  // every captured format is exact there
    job.output.base = held_rows_.bytes();
    job.places = upload(plan.places);
    jobs.emplace_back(job);
  }
  require(runtime_->copy_to_device(device, pinned, used, stream), "copying lists of rows");
  if (compared_before_) require(runtime_->wait_event(stream, compared_.get()), "waiting for the comparison before");
  for (const KernelJob& job : jobs) {
    require(runtime_->launch(job, stream), "launching a kernel that compares or holds rows");
  }
  require(runtime_->record_event(compared_.get(), stream), "recording an event behind a comparison");
  compared_before_ = true;
  if (is_hold(selection.measure)) {
    require(runtime_->record_event(room.arrived, stream), "recording an event on the engine's stream");
  } else {
    start_copy_to_host(stored, room.offset + CopyRing::rounded(list_bytes), room, stream);
  }
}

std::optional<CopyEngine::Room> CopyEngine::find_room(std::size_t bytes, bool wait) {
  std::unique_lock lock(mutex_);
  bool waited = false;
  for (;;) {
    if (failure_) throw Error(*failure_);
    if (!free_events_.empty()) {
      std::optional<std::size_t> offset = 0;
      if (bytes > 0) offset = ring_.reserve(bytes);
      if (offset) {
        const Room room{*offset, free_events_.back()};
        free_events_.pop_back();
        return room;
      }
    }
    if (!wait) return std::nullopt;
    if (!waited) ++counters_.waits;
    waited = true;
    let_deliver(lock);
  }
}

void CopyEngine::let_deliver(std::unique_lock<std::mutex>& lock) {
  if (options_.background) {
    changed_.wait(lock);
    return;
  }
  lock.unlock();
  deliver_next();
  lock.lock();
}

void CopyEngine::push(Pending pending) {
  // What is dropped takes neither room nor event, but a note; a sink that takes nothing at all must not fill the
  // memory.
  const std::size_t most_notes = 64 * options_.pending;
  std::unique_lock lock(mutex_);
  while (pending_.size() >= most_notes) let_deliver(lock);
  counters_.rows += pending.rows;
  pending_.push_back(std::move(pending));
  ++taken_;
  lock.unlock();
  changed_.notify_all();
}

void CopyEngine::fail(const Error& error) noexcept {
  {
    const std::scoped_lock lock(mutex_);
    if (!failure_) failure_ = error;
  }
  changed_.notify_all();
}

std::uint64_t CopyEngine::graph_of(void* stream) {
  const CurrentDevice current(*runtime_, options_.device);
  const StreamCapture capture = capture_state(stream);
  return capture.state == StreamCapture::State::active ? capture.graph : 0;
}

void CopyEngine::begin_replay(std::uint64_t graph, const ReplayRows& rows_of, void* stream) {
  const std::scoped_lock submit(submitting_);
  require_working();
  if (replay_open_ || !graphs_) {
    throw Error(ErrorCode::invalid_argument,
                replay_open_ ? "the replay before must be ended first" : "no tensor was captured into a CUDA graph");
  }
  Pending replay;
  replay.kind = Pending::Kind::replayed;
  for (GraphSite& site : graphs_->sites_of(graph)) {
    site.selection.rows = rows_of(site.selection);
    if (site.selection.rows == nullptr) continue;
    const std::vector<std::int64_t>& source = site.selection.rows->source;
    const auto outside = std::find_if(source.begin(), source.end(), [&](std::int64_t row) {
      return row < 0 || row >= static_cast<std::int64_t>(site.rows);
    });
    if (outside != source.end()) {
      throw wrong(ErrorCode::invalid_argument, "the captured tensor has " + std::to_string(site.rows) + " rows", "row",
                  std::to_string(*outside));
    }
    replay.rows += source.size();
    replay.sites.push_back(std::move(site));
  }
  replay.step = ++last_step_;
  const CurrentDevice current(*runtime_, options_.device);
  try {
    // Replays follow each other even on different streams: the ring in the device has one writer at a time.
    if (replay_ended_) require(runtime_->wait_event(stream, replayed_.get()), "waiting for the replay before");
    graphs_->announce(replay.step, stream);
  } catch (const Error& error) {
    fail(error);
    throw;
  }
  replay_ = std::move(replay);
  replay_stream_ = stream;
  replay_open_ = true;
}

void CopyEngine::end_replay() {
  const std::scoped_lock submit(submitting_);
  if (!replay_open_) throw Error(ErrorCode::invalid_argument, "no replay was begun");
  replay_open_ = false;
  require_working();
  const CurrentDevice current(*runtime_, options_.device);
  const std::optional<Room> room = find_room(0, true);
  try {
    graphs_->announce(0, replay_stream_);
    require(runtime_->record_event(replayed_.get(), replay_stream_), "recording an event behind a replay");
    require(runtime_->record_event(room->arrived, replay_stream_), "recording an event behind a replay");
  } catch (const Error& error) {
    {
      const std::scoped_lock lock(mutex_);
      counters_.rows += replay_.rows;
      counters_.lost_rows += replay_.rows;
    }
    fail(error);
    throw;
  }
  replay_ended_ = true;
  replay_.arrived = room->arrived;
  push(std::move(replay_));
}

CopyCounters CopyEngine::counters() const {
  const std::scoped_lock lock(mutex_);
  CopyCounters result = counters_;
  if (graphs_) {
    result.unannounced_rows = graphs_->unannounced_rows();
    result.conflicting_rows = graphs_->conflicting_rows();
  }
  result.held_bytes = history_.held_bytes();
  result.unmatched_rows = history_.unmatched_rows();
  return result;
}

}  // namespace evictsim::traces::capture

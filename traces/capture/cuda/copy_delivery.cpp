// The other half of the copy engine: from pinned memory to the sink.
#include <algorithm>
#include <exception>
#include <utility>

#include "traces/capture/cuda/copy_engine.h"
#include "traces/error.h"

namespace evictsim::traces::capture {

void CopyEngine::work() {
  int previous = 0;
  const CudaResult selected = runtime_->exchange_device(options_.device, previous);
  CaptureMode mode = CaptureMode::relaxed;
  const CudaResult relaxed = runtime_->exchange_capture_mode(mode);
  try {
    require(selected, "selecting the device on the delivering thread");
    require(relaxed, "keeping the delivering thread out of captures");
  } catch (const Error& error) {
    {
      const std::scoped_lock lock(mutex_);
      discarding_ = true;
    }
    fail(error);
  }
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return closing_ || !pending_.empty() || (failure_ && !reported_); });
      if (closing_ && pending_.empty() && (!failure_ || reported_)) return;
    }
    if (!deliver_next()) report_failure();
  }
}

/// Delivers the oldest selection, waiting for its copy; false when there is none.
bool CopyEngine::deliver_next() {
  const std::scoped_lock order(delivering_);
  const Pending* next = nullptr;
  bool discarding = false;
  {
    const std::scoped_lock lock(mutex_);
    if (pending_.empty()) return false;
    next = &pending_.front();  // stays where it is while others are appended
    discarding = discarding_;
  }
  CopyCounters outcome;
  std::optional<Error> problem;
  try {
    if (!discarding) discarding = !arrived(*next, problem);
    if (discarding) {
      give_up(*next);
    } else {
      deliver(*next, outcome);
    }
  } catch (const Error& error) {
    problem = error;
  } catch (const std::exception& error) {
    problem = Error(ErrorCode::io_failure, std::string("the sink failed: ") + error.what());
  }
  {
    const std::scoped_lock lock(mutex_);
    if (problem) {
      discarding_ = true;
      if (!failure_) failure_ = *problem;
    }
    counters_.delivered_rows += outcome.delivered_rows;
    counters_.dropped_rows += outcome.dropped_rows;
    counters_.bytes += outcome.bytes;
    counters_.lost_rows += next->rows - outcome.delivered_rows - outcome.dropped_rows;
    // Where a copy may not have happened, its room and event are not used again.
    if (next->arrived != nullptr && !discarding_) {
      if (next->kind == Pending::Kind::copied || next->kind == Pending::Kind::held) ring_.release_oldest();
      free_events_.push_back(next->arrived);
    }
    pending_.pop_front();
    ++finished_;
  }
  changed_.notify_all();
  return true;
}

/// Waits for the copy; false when it will not come, and why.
bool CopyEngine::arrived(const Pending& pending, std::optional<Error>& problem) {
  if (pending.arrived == nullptr) return true;
  const ProfiledRange range(*runtime_, "evictsim: wait for copy");
  try {
    require(runtime_->synchronize_event(pending.arrived), "waiting for a copy to the host");
  } catch (const Error& error) {
    problem = error;
    return false;
  }
  return true;
}

/// Tells the sink that the rows are lost.
void CopyEngine::give_up(const Pending& pending) {
  if (pending.kind == Pending::Kind::held) return;
  if (pending.kind != Pending::Kind::replayed) {
    receiver_.dropped(pending.selection);
    return;
  }
  for (const GraphSite& site : pending.sites) receiver_.dropped(site.selection);
}

void CopyEngine::deliver(const Pending& pending, CopyCounters& outcome) {
  const ProfiledRange range(*runtime_, "evictsim: hand rows over");
  switch (pending.kind) {
    case Pending::Kind::copied:
    case Pending::Kind::empty: {
      const auto* bytes =
          reinterpret_cast<const std::byte*>(pinned_ring_.bytes() + pending.offset + pending.stored.copied_first);
      deliver_rows(receiver_, pending.selection, pending.stored, bytes, pending.rows, false, scratch_);
      outcome.delivered_rows = pending.rows;
      outcome.bytes = pending.stored.copied_bytes;
      return;
    }
    case Pending::Kind::held:
      return;
    case Pending::Kind::dropped:
      receiver_.dropped(pending.selection);
      outcome.dropped_rows = pending.rows;
      return;
    case Pending::Kind::replayed:
      deliver_replay(pending, outcome);
      return;
  }
}

void CopyEngine::deliver_replay(const Pending& pending, CopyCounters& outcome) {
  const std::vector<GraphRecord> records = graphs_->fetch(pending.step);
  for (const GraphSite& site : pending.sites) {
    const std::size_t rows = site.selection.rows->source.size();
    const auto found = std::find_if(records.begin(), records.end(),
                                    [&](const GraphRecord& record) { return record.site == site.number; });
    if (found == records.end()) {
      receiver_.dropped(site.selection);
      outcome.dropped_rows += rows;
    } else {
      deliver_rows(receiver_, site.selection, site.stored, found->bytes, site.rows, true, scratch_);
      outcome.delivered_rows += rows;
      outcome.bytes += site.stored.copied_bytes;
    }
  }
  graphs_->release();
}

void CopyEngine::report_failure() {
  std::optional<Error> failure;
  {
    const std::scoped_lock lock(mutex_);
    if (!failure_ || reported_ || !pending_.empty()) return;
    failure = failure_;
  }
  try {
    receiver_.failed(*failure);
  } catch (const std::exception&) {
    // The sink was told; what it makes of it is its own affair, and copy() keeps refusing with the first reason.
  }
  {
    const std::scoped_lock lock(mutex_);
    reported_ = true;
  }
  changed_.notify_all();
}

void CopyEngine::drain() {
  if (!options_.background) {
    while (deliver_next()) {
    }
    report_failure();
    return;
  }
  std::unique_lock lock(mutex_);
  const std::uint64_t target = taken_;
  changed_.wait(lock, [&] { return finished_ >= target && (!failure_ || reported_); });
}

}  // namespace evictsim::traces::capture

#include "tests/support/cuda_double.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace evictsim::tests {

using namespace traces::capture;

namespace {

constexpr int poison = 0xa5;

void run(const RowGather& job) {
  for (std::int64_t line = 0; line < job.lines(); ++line) job(line, 0, 1);
}

template <typename Job>
void run_rows(const Job& job) {
  const auto scratch = std::make_unique<typename Job::Scratch>();
  for (std::int64_t row = 0; row < job.rows; ++row) job(row, HostTeam{}, *scratch);
}
void run(const LogitStatistics& job) { run_rows(job); }
void run(const RowComparison& job) { run_rows(job); }
void run(const GraphClaim& job) { job(); }
void run(const GraphPublish& job) { job(); }
void run(const GraphStep& job) { job(); }
void run(const MemoryRead& job) { run_rows(job); }
void run(const DecodeAttention& job) { run_rows(job); }
void run(const AttentionMerge& job) { run_rows(job); }

}  // namespace

void run_on_host(const KernelJob& job) {
  std::visit([](const auto& kernel) { run(kernel); }, job);
}

CudaDouble::~CudaDouble() = default;

void CudaDouble::breach(const std::string& text) { breaches_.push_back(text); }

CudaDouble::Stream* CudaDouble::find(void* stream) {
  const auto found = streams_.find(stream);
  if (found == streams_.end() || found->second->destroyed) {
    breach("an unknown stream");
    return nullptr;
  }
  return found->second.get();
}

bool CudaDouble::runnable(const Stream& stream) const {
  if (stream.operations.empty()) return false;
  const auto& wait = stream.operations.front().waits_for;
  return !wait || !open_recordings_.contains(*wait);
}

/// One part of one operation of a stream chosen by the seed; false when nothing can happen.
bool CudaDouble::step() {
  if (lost_) return false;
  std::vector<Stream*> ready;
  for (const auto& [handle, stream] : streams_) {
    if (runnable(*stream)) ready.push_back(stream.get());
  }
  if (ready.empty()) return false;
  Stream& stream = *ready[random_() % ready.size()];
  Operation& operation = stream.operations.front();
  if (behaviour_.fatal_operation == operations_) {
    lost_ = true;
    return false;
  }
  if (operation.advance && !operation.advance()) return true;
  if (operation.records) open_recordings_.erase(*operation.records);
  stream.operations.pop_front();
  ++operations_;
  return true;
}

/// Counts the call, lets some operations happen, and fails where that was asked for.
CudaDouble::Result CudaDouble::begin_call() {
  if (behaviour_.failing_call == calls_++) {
    if (behaviour_.failure == Kind::context_lost) lost_ = true;
    return {behaviour_.failure, "injected"};
  }
  if (lost_) return lost();
  for (auto count = behaviour_.eagerness > 0 ? random_() % static_cast<std::uint64_t>(behaviour_.eagerness + 1) : 0;
       count > 0 && step(); --count) {
  }
  return {};
}

/// What a capture in global mode forbids to every thread that did not relax.
CudaDouble::Result CudaDouble::disturbs_capture() {
  const auto mode = modes_.find(std::this_thread::get_id());
  if (mode != modes_.end() && mode->second == CaptureMode::relaxed) return {};
  for (const auto& [handle, stream] : streams_) {
    if (stream->capture.state != StreamCapture::State::active) continue;
    stream->capture.state = StreamCapture::State::invalidated;
    breach("a call that a capture forbids");
    return {Kind::capture_conflict, "operation not permitted when stream is capturing"};
  }
  return {};
}

CudaDouble::Result CudaDouble::submit(void* stream, Operation operation) {
  Stream* const target = find(stream);
  if (target == nullptr) return {Kind::failure, "unknown stream"};
  if (target->capture.state == StreamCapture::State::invalidated) return {Kind::capture_conflict, "invalidated"};
  if (target->capture.state == StreamCapture::State::active) {
    graphs_[target->capture.graph].push_back(std::move(operation));
  } else {
    target->operations.push_back(std::move(operation));
  }
  return {};
}

CudaDouble::Result CudaDouble::wait_until(std::unique_lock<std::mutex>& lock, const std::function<bool()>& done) {
  while (!done()) {
    if (!step()) {
      if (lost_) return lost();
      breach("a wait that never ends");
      return {Kind::failure, "deadlock"};
    }
    // Other threads' calls come between.
    lock.unlock();
    lock.lock();
  }
  return lost_ ? lost() : Result{};
}

// --- The engine's side.

CudaStream CudaDouble::engine_stream() {
  const std::scoped_lock lock(mutex_);
  void* const handle = reinterpret_cast<void*>(next_handle_ += 16);
  streams_.emplace(handle, std::make_unique<Stream>());
  engine_streams_.insert(handle);
  return handle;
}

void* CudaDouble::engine_memory(std::size_t bytes) {
  const std::scoped_lock lock(mutex_);
  return new_memory(bytes, engine_);
}

void CudaDouble::enqueue(CudaStream stream, std::function<void()> work) {
  const std::scoped_lock lock(mutex_);
  submit(stream, {[work = std::move(work)] {
                    work();
                    return true;
                  },
                  {},
                  {}});
}

std::uint64_t CudaDouble::begin_capture(CudaStream stream) {
  const std::scoped_lock lock(mutex_);
  find(stream)->capture = {StreamCapture::State::active, ++captures_};
  return captures_;
}

void CudaDouble::end_capture(CudaStream stream) {
  const std::scoped_lock lock(mutex_);
  find(stream)->capture = {};
}

void CudaDouble::invalidate_capture(CudaStream stream) {
  const std::scoped_lock lock(mutex_);
  find(stream)->capture.state = StreamCapture::State::invalidated;
}

void CudaDouble::launch_graph(std::uint64_t graph, CudaStream stream) {
  const std::scoped_lock lock(mutex_);
  for (const Operation& operation : graphs_[graph]) submit(stream, operation);
}

void CudaDouble::finish() {
  std::unique_lock lock(mutex_);
  while (step()) {
  }
}

// --- Questions.

std::uint64_t CudaDouble::calls() const {
  const std::scoped_lock lock(mutex_);
  return calls_;
}

std::uint64_t CudaDouble::operations() const {
  const std::scoped_lock lock(mutex_);
  return operations_;
}

std::size_t CudaDouble::leaks() const {
  const std::scoped_lock lock(mutex_);
  std::size_t open_streams = 0;
  for (const auto& [handle, stream] : streams_) {
    if (!stream->destroyed && !engine_streams_.contains(handle)) ++open_streams;
  }
  return open_streams + events_.size() + device_.size() + pinned_.size() +
         static_cast<std::size_t>(std::abs(open_ranges_));
}

std::vector<std::string> CudaDouble::breaches() const {
  const std::scoped_lock lock(mutex_);
  return breaches_;
}

// --- The runtime.

void* CudaDouble::new_memory(std::size_t bytes, std::map<void*, std::unique_ptr<unsigned char[]>>& owner) {
  auto memory = std::make_unique<unsigned char[]>(std::max<std::size_t>(bytes, 1));
  std::memset(memory.get(), poison, bytes);
  void* const handle = memory.get();
  owner.emplace(handle, std::move(memory));
  return handle;
}

CudaDouble::Result CudaDouble::exchange_device(int device, int& previous) {
  const std::scoped_lock lock(mutex_);
  if (Result result = begin_call(); !result.ok()) return result;
  int& current = current_device_[std::this_thread::get_id()];
  previous = std::exchange(current, device);
  return {};
}

CudaDouble::Result CudaDouble::exchange_capture_mode(CaptureMode& mode) {
  const std::scoped_lock lock(mutex_);
  if (Result result = begin_call(); !result.ok()) return result;
  std::swap(modes_.emplace(std::this_thread::get_id(), CaptureMode::global).first->second, mode);
  return {};
}

CudaDouble::Result CudaDouble::allocate(std::size_t bytes, void*& memory) {
  const std::scoped_lock lock(mutex_);
  if (Result result = begin_call(); !result.ok()) return result;
  if (Result result = disturbs_capture(); !result.ok()) return result;
  memory = new_memory(bytes, device_);
  return {};
}

CudaDouble::Result CudaDouble::allocate_host(std::size_t bytes, void*& memory) {
  const std::scoped_lock lock(mutex_);
  if (Result result = begin_call(); !result.ok()) return result;
  if (Result result = disturbs_capture(); !result.ok()) return result;
  memory = new_memory(bytes, pinned_);
  return {};
}

// Stricter than CUDA, which waits here: what still runs on freed memory is a mistake that the address sanitizer sees.
CudaDouble::Result CudaDouble::release(void* memory) {
  const std::scoped_lock lock(mutex_);
  const Result result = begin_call();
  if (device_.erase(memory) == 0) breach("device memory freed twice");
  return result;
}

CudaDouble::Result CudaDouble::release_host(void* memory) {
  const std::scoped_lock lock(mutex_);
  const Result result = begin_call();
  if (pinned_.erase(memory) == 0) breach("pinned memory freed twice");
  return result;
}

CudaDouble::Result CudaDouble::create_stream(CudaStream& stream) {
  const std::scoped_lock lock(mutex_);
  if (Result result = begin_call(); !result.ok()) return result;
  stream = reinterpret_cast<void*>(next_handle_ += 16);
  streams_.emplace(stream, std::make_unique<Stream>());
  return {};
}

CudaDouble::Result CudaDouble::destroy_stream(CudaStream stream) {
  const std::scoped_lock lock(mutex_);
  const Result result = begin_call();
  if (Stream* const found = find(stream)) found->destroyed = true;  // what is on it still happens
  return result;
}

CudaDouble::Result CudaDouble::create_event(CudaEvent& event) {
  const std::scoped_lock lock(mutex_);
  if (Result result = begin_call(); !result.ok()) return result;
  event = reinterpret_cast<void*>(next_handle_ += 16);
  events_.emplace(event, 0);
  return {};
}

CudaDouble::Result CudaDouble::destroy_event(CudaEvent event) {
  const std::scoped_lock lock(mutex_);
  const Result result = begin_call();
  if (events_.erase(event) == 0) breach("an event destroyed twice");
  return result;
}

CudaDouble::Result CudaDouble::record_event(CudaEvent event, CudaStream stream) {
  const std::scoped_lock lock(mutex_);
  if (Result result = begin_call(); !result.ok()) return result;
  const auto found = events_.find(event);
  if (found == events_.end()) {
    breach("an unknown event recorded");
    return {Kind::failure, "unknown event"};
  }
  const std::uint64_t recording = ++recordings_;
  if (Result result = submit(stream, {{}, {}, recording}); !result.ok()) return result;
  open_recordings_.insert(recording);
  found->second = recording;
  return {};
}

CudaDouble::Result CudaDouble::wait_event(CudaStream stream, CudaEvent event) {
  const std::scoped_lock lock(mutex_);
  if (Result result = begin_call(); !result.ok()) return result;
  const auto found = events_.find(event);
  if (found == events_.end()) {
    breach("a wait for an unknown event");
    return {Kind::failure, "unknown event"};
  }
  return submit(stream, {{}, found->second, {}});  // for the recording as of now
}

CudaDouble::Result CudaDouble::synchronize_event(CudaEvent event) {
  std::unique_lock lock(mutex_);
  if (Result result = begin_call(); !result.ok()) return result;
  if (Result result = disturbs_capture(); !result.ok()) return result;
  const auto found = events_.find(event);
  if (found == events_.end()) {
    breach("a wait for an unknown event");
    return {Kind::failure, "unknown event"};
  }
  const std::uint64_t recording = found->second;
  return wait_until(lock, [&] { return !open_recordings_.contains(recording); });
}

CudaDouble::Result CudaDouble::synchronize_stream(CudaStream stream) {
  std::unique_lock lock(mutex_);
  if (Result result = begin_call(); !result.ok()) return result;
  if (Result result = disturbs_capture(); !result.ok()) return result;
  Stream* const found = find(stream);
  if (found == nullptr) return {Kind::failure, "unknown stream"};
  return wait_until(lock, [&] { return found->operations.empty(); });
}

CudaDouble::Result CudaDouble::synchronize_device() {
  std::unique_lock lock(mutex_);
  if (Result result = begin_call(); !result.ok()) return result;
  if (Result result = disturbs_capture(); !result.ok()) return result;
  return wait_until(lock, [&] {
    return std::all_of(streams_.begin(), streams_.end(), [](const auto& s) { return s.second->operations.empty(); });
  });
}

CudaDouble::Result CudaDouble::copy_to_host(void* host, const void* device, std::size_t bytes, CudaStream stream) {
  const std::scoped_lock lock(mutex_);
  if (Result result = begin_call(); !result.ok()) return result;
  std::memset(host, poison, bytes);
  const std::size_t piece = std::max<std::size_t>(1, bytes / behaviour_.pieces);
  auto advance = [=, done = std::size_t{0}]() mutable {
    const std::size_t count = std::min(piece, bytes - done);
    std::memcpy(static_cast<unsigned char*>(host) + done, static_cast<const unsigned char*>(device) + done, count);
    done += count;
    return done == bytes;
  };
  return submit(stream, {std::move(advance), {}, {}});
}

CudaDouble::Result CudaDouble::copy_to_device(void* device, const void* host, std::size_t bytes, CudaStream stream) {
  const std::scoped_lock lock(mutex_);
  if (Result result = begin_call(); !result.ok()) return result;
  return submit(stream, {[=] {
                           std::memcpy(device, host, bytes);
                           return true;
                         },
                         {},
                         {}});
}

CudaDouble::Result CudaDouble::load_kernels() {
  const std::scoped_lock lock(mutex_);
  if (Result result = begin_call(); !result.ok()) return result;
  return disturbs_capture();
}

CudaDouble::Result CudaDouble::launch(const KernelJob& job, CudaStream stream) {
  const std::scoped_lock lock(mutex_);
  if (Result result = begin_call(); !result.ok()) return result;
  return submit(stream, {[job] {
                           run_on_host(job);
                           return true;
                         },
                         {},
                         {}});
}

CudaDouble::Result CudaDouble::capture_of(CudaStream stream, StreamCapture& capture) {
  const std::scoped_lock lock(mutex_);
  if (Result result = begin_call(); !result.ok()) return result;
  if (stream == nullptr) {  // the legacy stream, which would join any capture
    for (const auto& [handle, other] : streams_) {
      if (other->capture.state == StreamCapture::State::active) return {Kind::capture_conflict, "implicit capture"};
    }
    capture = {};
    return {};
  }
  Stream* const found = find(stream);
  if (found == nullptr) return {Kind::failure, "unknown stream"};
  capture = found->capture;
  return {};
}

void CudaDouble::begin_range(const char*) noexcept {
  const std::scoped_lock lock(mutex_);
  ++open_ranges_;
}

void CudaDouble::end_range() noexcept {
  const std::scoped_lock lock(mutex_);
  --open_ranges_;
}

}  // namespace evictsim::tests

#include "traces/capture/sink/writer_pool.h"

#include <chrono>
#include <exception>
#include <utility>

namespace evictsim::traces::capture {

WriterPool::WriterPool(int threads, std::size_t queue_bytes, std::function<void()> idle)
    : limit_(queue_bytes), idle_(std::move(idle)) {
  for (int i = 0; i < threads; ++i) encoders_.push_back(std::make_unique<ChunkEncoder>());
  try {
    for (const auto& encoder : encoders_) threads_.emplace_back([this, &encoder] { work(*encoder); });
  } catch (...) {
    end();  // those that did start
    throw;
  }
}

WriterPool::~WriterPool() { end(); }

void WriterPool::end() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  queued_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool WriterPool::has_room(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  return fits(bytes);
}

double WriterPool::wait_for_room(std::size_t bytes) {
  std::unique_lock lock(mutex_);
  if (fits(bytes)) return 0;
  const auto start = std::chrono::steady_clock::now();
  released_.wait(lock, [&] { return fits(bytes) || failure_.has_value(); });
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void WriterPool::submit(std::size_t bytes, Job job) {
  {
    const std::lock_guard lock(mutex_);
    held_ += bytes;
    queue_.push_back({bytes, std::move(job)});
  }
  queued_.notify_one();
}

void WriterPool::wait_until_done() {
  std::unique_lock lock(mutex_);
  released_.wait(lock, [&] { return queue_.empty() && running_ == 0; });
}

std::optional<Error> WriterPool::failure() {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void WriterPool::fail(const Error& error) {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = error;
  }
  released_.notify_all();
}

/// Calls `work`; what it throws is the pool's failure.
void WriterPool::attempt(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    fail(error);
  } catch (const std::exception& error) {
    fail(Error(ErrorCode::io_failure, std::string("the writer stopped: ") + error.what()));
  }
}

void WriterPool::work(ChunkEncoder& encoder) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (queue_.empty()) {
      if (ending_) return;
      if (queued_.wait_for(lock, std::chrono::seconds(1)) == std::cv_status::timeout && queue_.empty()) {
        lock.unlock();
        attempt(idle_);
        lock.lock();
      }
      continue;
    }
    Entry entry = std::move(queue_.front());
    queue_.pop_front();
    ++running_;
    const bool wanted = !failure_.has_value();
    lock.unlock();
    if (wanted) attempt([&] { entry.job(encoder); });
    entry.job = nullptr;  // what it holds is released before its bytes count as free
    lock.lock();
    held_ -= entry.bytes;
    --running_;
    released_.notify_all();
  }
}

}  // namespace evictsim::traces::capture

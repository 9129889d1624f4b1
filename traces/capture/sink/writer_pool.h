#pragma once
/// \file
/// Threads that do what the engine must not wait for: compressing and writing. Their queue is bounded in bytes.

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "traces/chunk_codec.h"
#include "traces/error.h"

namespace evictsim::traces::capture {

class WriterPool {
 public:
  using Job = std::function<void(ChunkEncoder&)>;

  /// `idle` is called about once a second by a thread that has nothing to do.
  WriterPool(int threads, std::size_t queue_bytes, std::function<void()> idle);
  WriterPool(const WriterPool&) = delete;
  WriterPool& operator=(const WriterPool&) = delete;
  /// Does what is queued, then ends the threads.
  ~WriterPool();

  /// Whether a job that holds `bytes` fits now; an empty queue takes any.
  [[nodiscard]] bool has_room(std::size_t bytes);
  /// Waits until it fits or the pool has failed; returns the seconds waited.
  double wait_for_room(std::size_t bytes);
  /// Queues a job without asking for room. Of a pool that has failed nothing is done any more: jobs are only destroyed.
  void submit(std::size_t bytes, Job job);
  /// Returns when nothing is queued and nothing is running, whatever jobs have added meanwhile.
  void wait_until_done();

  /// What the first failed job threw.
  [[nodiscard]] std::optional<Error> failure();
  void fail(const Error& error);

 private:
  struct Entry {
    std::size_t bytes;
    Job job;
  };
  void work(ChunkEncoder& encoder);
  void attempt(const std::function<void()>& work);
  void end();
  [[nodiscard]] bool fits(std::size_t bytes) const { return held_ == 0 || held_ + bytes <= limit_; }

  std::size_t limit_;
  std::function<void()> idle_;
  std::mutex mutex_;
  std::condition_variable queued_, released_;
  std::deque<Entry> queue_;
  std::size_t held_ = 0;  ///< bytes of queued and running jobs
  std::size_t running_ = 0;
  bool ending_ = false;
  std::optional<Error> failure_;
  std::vector<std::unique_ptr<ChunkEncoder>> encoders_;
  std::vector<std::thread> threads_;
};

}  // namespace evictsim::traces::capture

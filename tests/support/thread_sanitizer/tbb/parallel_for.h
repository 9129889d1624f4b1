#pragma once
/// \file
/// The part of oneTBB that evictsim uses, over plain threads; found before the real one in builds for the thread
/// sanitizer. That tool cannot see into the system's libtbb, which is not instrumented, and would report every task as
/// a race; suppressions wide enough to silence that would silence our own races too.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace tbb {

namespace stand_in {

inline std::atomic<std::size_t> thread_limit{std::max(2U, std::thread::hardware_concurrency())};

/// Runs task(0) .. task(count - 1) on as many threads as allowed; rethrows the first exception. Nested calls start
/// threads of their own, so that inner loops are checked too.
inline void run(std::size_t count, const std::function<void(std::size_t)>& task) {
  std::atomic<std::size_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  const auto work = [&] {
    for (std::size_t i = next++; i < count; i = next++) {
      try {
        task(i);
      } catch (...) {
        next = count;
        const std::scoped_lock lock(failure_mutex);
        if (!failure) failure = std::current_exception();
      }
    }
  };
  std::vector<std::thread> helpers;
  for (std::size_t i = 1; i < std::min(count, thread_limit.load()); ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace stand_in

template <typename Value>
class blocked_range {
 public:
  blocked_range(Value begin, Value end, std::size_t grain = 1) : begin_(begin), end_(end), grain_(grain) {}
  [[nodiscard]] Value begin() const { return begin_; }
  [[nodiscard]] Value end() const { return end_; }
  [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(end_ - begin_); }
  [[nodiscard]] std::size_t grainsize() const { return grain_; }

 private:
  Value begin_, end_;
  std::size_t grain_;
};

struct simple_partitioner {};
struct auto_partitioner {};
struct static_partitioner {};

template <typename Value, typename Body, typename Partitioner = auto_partitioner>
void parallel_for(const blocked_range<Value>& range, const Body& body, const Partitioner& = {}) {
  const std::size_t grain = range.grainsize();
  stand_in::run((range.size() + grain - 1) / grain, [&](std::size_t chunk) {
    const std::size_t first = chunk * grain;
    const std::size_t last = std::min(range.size(), first + grain);
    body(blocked_range<Value>(range.begin() + static_cast<Value>(first), range.begin() + static_cast<Value>(last),
                              grain));
  });
}

template <typename Value, typename Body>
requires std::is_integral_v<Value>
void parallel_for(Value first, Value last, const Body& body) {
  if (first >= last) return;
  stand_in::run(static_cast<std::size_t>(last - first),
                [&](std::size_t i) { body(static_cast<Value>(first + static_cast<Value>(i))); });
}

}  // namespace tbb

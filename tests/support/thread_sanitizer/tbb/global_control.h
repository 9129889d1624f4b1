#pragma once
/// \file
/// See parallel_for.h.

#include <tbb/parallel_for.h>

namespace tbb {

class global_control {
 public:
  enum parameter { max_allowed_parallelism };
  global_control(parameter, std::size_t limit) : before_(stand_in::thread_limit.exchange(limit)) {}
  global_control(const global_control&) = delete;
  global_control& operator=(const global_control&) = delete;
  ~global_control() { stand_in::thread_limit = before_; }

 private:
  std::size_t before_;
};

}  // namespace tbb

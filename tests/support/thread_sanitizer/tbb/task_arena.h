#pragma once
/// \file
/// See parallel_for.h.

namespace tbb {

/// The limit on threads is set by global_control, which evictsim always sets as well.
class task_arena {
 public:
  explicit task_arena(int /*threads*/) {}
  template <typename Body>
  auto execute(const Body& body) {
    return body();
  }
};

namespace this_task_arena {

template <typename Body>
auto isolate(const Body& body) {
  return body();
}

}  // namespace this_task_arena

}  // namespace tbb

#pragma once
/// \file
/// Ctrl-C as a request, for programs that have something to finish.

#include <signal.h>

#include <atomic>

namespace evictsim::traces {

/// Exit status of a program that stopped so: what a shell reports for SIGINT.
inline constexpr int interrupted_status = 130;

/// While alive, the first SIGINT or SIGTERM asks for a stop; a second one ends the process as usual. One at a time.
class StopOnSignal {
 public:
  StopOnSignal();
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;
  ~StopOnSignal();

  /// Set by the first signal.
  [[nodiscard]] static const std::atomic<bool>& requested();

 private:
  struct sigaction interrupt_ {
  }, terminate_{};
};

}  // namespace evictsim::traces

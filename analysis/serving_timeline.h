#pragma once
/// \file
/// What happened in a serving simulation: a row per request, and a timeline in the Trace Event Format that Perfetto and
/// chrome://tracing show (Google, "Trace Event Format"). Columns and tracks: docs/plan.md.

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "sim/serving/observer.h"
#include "sim/serving/serving.h"

namespace evictsim::analysis {

std::vector<std::string> request_column_names();
/// CSV lines of all requests of the run that is row `row` of the plan, counted from 0.
std::string request_lines(std::size_t row, const sim::ServingResult& result);

/// Collects what the result alone does not tell.
class TimelineObserver : public sim::ServingObserver {
 public:
  struct Preemption {
    sim::Time time = 0;
    std::size_t request = 0;
    int replica = 0;
    bool swapped = false;
  };

  void steps(const sim::StepsEvent& event) override { steps_.push_back(event); }
  void preempted(sim::Time time, std::size_t request, int replica, bool swapped) override {
    preemptions_.push_back({time, request, replica, swapped});
  }
  void transferred(const sim::TransferEvent& event) override { transfers_.push_back(event); }
  void copied(const sim::CopyEvent& event) override { copies_.push_back(event); }

  /// Writes the whole file. `prefill_replicas`: 0 without disaggregation. Throws Error(permission_denied,
  /// file_not_found, io_failure).
  void write(const std::filesystem::path& path, const sim::ServingResult& result, int prefill_replicas) const;

 private:
  std::vector<sim::StepsEvent> steps_;
  std::vector<Preemption> preemptions_;
  std::vector<sim::TransferEvent> transfers_;
  std::vector<sim::CopyEvent> copies_;
};

}  // namespace evictsim::analysis

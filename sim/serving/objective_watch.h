#pragma once
/// \file
/// Runs that are given up as soon as an objective can no longer be met: searches learn no more from them.

#include <cstdint>
#include <optional>
#include <vector>

#include "sim/serving/service_metrics.h"
#include "sim/serving/serving.h"

namespace evictsim::sim {

/// What requests that are finished say about the limits of an objective, whatever becomes of the others.
class ObjectiveWatch {
 public:
  /// `requests`: how many there are in all, at most.
  ObjectiveWatch(const ServiceObjective& objective, std::int64_t requests);
  void finished(const RequestRecord& record);
  /// ServiceObjective::met() will be false at the end.
  [[nodiscard]] bool lost() const { return lost_; }

 private:
  struct Limit {
    LatencyLimit limit;
    std::int64_t late = 0, most_late = 0;  ///< of a quantile
    double seconds = 0, most_seconds = 0;  ///< of a mean: sums
  };
  std::vector<Limit> limits_;
  bool lost_ = false;
};

struct WatchedRun {
  std::optional<ServingResult> result;  ///< none: given up
  double seconds = 0;                   ///< simulated
};

/// serve(), which ends early when the objective is lost. `requests` as above; none: not known, so it runs to its end.
WatchedRun serve_watched(const ServingOptions& options, RequestSource& source, const ServiceObjective& objective,
                         std::optional<std::int64_t> requests);

}  // namespace evictsim::sim

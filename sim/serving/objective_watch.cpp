#include "sim/serving/objective_watch.h"

#include <cmath>
#include <limits>

namespace evictsim::sim {
namespace {

/// Of a finished request; none where it has no such latency.
std::optional<double> latency(const RequestRecord& record, LatencyKind kind) {
  constexpr double never = std::numeric_limits<double>::infinity();
  if (kind == LatencyKind::tpot && record.output_tokens < 2) return std::nullopt;
  if (record.status != RequestStatus::completed) return never;
  switch (kind) {
    case LatencyKind::ttft:
      return to_seconds(record.first_token - record.arrival);
    case LatencyKind::tpot:
      return record.seconds_per_output_token();
    default:
      return to_seconds(record.finish - record.arrival);
  }
}

struct GivenUp {
  Time time = 0;
};

class WatchedSource final : public RequestSource {
 public:
  WatchedSource(RequestSource& source, const ServiceObjective& objective, std::int64_t requests)
      : source_(source), watch_(objective, requests) {}

  std::optional<traces::WorkloadRequest> next() override { return source_.next(); }
  std::optional<traces::WorkloadRequest> finished(const RequestRecord& record) override {
    watch_.finished(record);
    if (watch_.lost()) throw GivenUp{record.finish};
    return source_.finished(record);
  }
  [[nodiscard]] const ResidentCache* resident() const override { return source_.resident(); }

 private:
  RequestSource& source_;
  ObjectiveWatch watch_;
};

}  // namespace

ObjectiveWatch::ObjectiveWatch(const ServiceObjective& objective, std::int64_t requests) {
  // Sums of many numbers are not exact.
  constexpr double margin = 1 + 1e-6;
  const auto last = static_cast<double>(requests - 1);
  for (const LatencyLimit& limit : objective.limits) {
    Limit watched{limit};
    // The value at or below the quantile's place is the largest that may still hold.
    if (limit.quantile) watched.most_late = static_cast<std::int64_t>(last - std::floor(*limit.quantile * last));
    watched.most_seconds = margin * limit.seconds * static_cast<double>(requests);
    limits_.push_back(watched);
  }
}

void ObjectiveWatch::finished(const RequestRecord& record) {
  for (Limit& watched : limits_) {
    const std::optional<double> seconds = latency(record, watched.limit.kind);
    if (!seconds) continue;
    if (watched.limit.quantile) {
      if (*seconds > watched.limit.seconds) ++watched.late;
      lost_ = lost_ || watched.late > watched.most_late;
    } else {
      watched.seconds += *seconds;
      lost_ = lost_ || watched.seconds > watched.most_seconds;
    }
  }
}

WatchedRun serve_watched(const ServingOptions& options, RequestSource& source, const ServiceObjective& objective,
                         std::optional<std::int64_t> requests) {
  WatchedRun run;
  try {
    if (requests) {
      WatchedSource watched(source, objective, *requests);
      run.result = serve(options, watched);
    } else {
      run.result = serve(options, source);
    }
    run.seconds = to_seconds(run.result->end);
  } catch (const GivenUp& given_up) {
    run.seconds = to_seconds(given_up.time);
  }
  return run;
}

}  // namespace evictsim::sim

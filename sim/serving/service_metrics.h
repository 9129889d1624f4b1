#pragma once
/// \file
/// Latencies and rates of a serving simulation, and what is asked of them.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/serving/serving.h"

namespace evictsim::sim {

/// Values of requests, some of which may have none because they were never served.
class Latencies {
 public:
  Latencies() = default;
  /// `seconds` of those that were served; `missing` were not.
  Latencies(std::vector<double> seconds, std::size_t missing);

  [[nodiscard]] std::size_t count() const { return seconds_.size(); }
  /// Over those served; NaN without any.
  [[nodiscard]] double mean() const { return mean_; }
  /// With linear interpolation between neighbours, as numpy's default, over those served; NaN without any.
  [[nodiscard]] double quantile(double share) const;
  /// The same with missing values as infinite: what a service objective is held against.
  [[nodiscard]] double mean_of_all() const;
  [[nodiscard]] double quantile_of_all(double share) const;

 private:
  std::vector<double> seconds_;  ///< ascending
  std::size_t missing_ = 0;
  double mean_;
};

/// Of one tier below the replicas.
struct TierMetrics {
  double hit_rate = 0;                              ///< of prompt tokens looked up, those loaded from here
  double peak_bytes = 0;                            ///< of the fullest replica
  double up_utilisation = 0, down_utilisation = 0;  ///< of the link: shares of the time that something is on it
};

/// Definitions: docs/plan.md, "Columns".
struct ServiceMetrics {
  Latencies ttft;  ///< arrival to first token
  Latencies tpot;  ///< (last - first token) / (tokens - 1), of requests with two or more
  Latencies e2e;   ///< arrival to last token
  std::int64_t requests = 0, completed = 0, refused = 0;
  double seconds = 0;  ///< from the first arrival to the last event
  double output_tokens_per_second = 0;
  double total_tokens_per_second = 0;  ///< prompts of completed requests count too
  double completed_per_second = 0;
  double batch_mean = 0;  ///< sequences per step
  double waiting_mean = 0, running_mean = 0;
  double utilisation = 0;  ///< share of the time that a replica computes
  std::int64_t preemptions = 0;
  double prefix_hit_rate = 0;         ///< of prompt tokens looked up
  std::int64_t peak_used_blocks = 0;  ///< of the fullest replica
  std::array<TierMetrics, most_kv_tiers> tiers;

  static ServiceMetrics of(const ServingResult& result);
};

enum class LatencyKind : std::uint8_t { ttft, tpot, e2e };

/// One limit: `tpot_p99=50ms`, `ttft_mean=2s`, `e2e_max=30`.
struct LatencyLimit {
  LatencyKind kind = LatencyKind::ttft;
  std::optional<double> quantile;  ///< none: the mean
  double seconds = 0;
};

/// Limits that hold together; requests that were not served count as infinitely late.
struct ServiceObjective {
  std::vector<LatencyLimit> limits;

  /// A list with commas; units s (the default), ms, us and min. Throws Error(invalid_argument, unknown_name).
  static ServiceObjective parse(std::string_view text);
  [[nodiscard]] bool met(const ServiceMetrics& metrics) const { return misses(metrics).empty(); }
  /// "tpot_p99 is 0.061 s, limit 0.05 s" of the first limit that does not hold; empty if all do.
  [[nodiscard]] std::string misses(const ServiceMetrics& metrics) const;
};

}  // namespace evictsim::sim

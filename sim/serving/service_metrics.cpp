#include "sim/serving/service_metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include "traces/error.h"

namespace evictsim::sim {
namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinite = std::numeric_limits<double>::infinity();

constexpr std::array kinds = {std::pair{"ttft", LatencyKind::ttft}, std::pair{"tpot", LatencyKind::tpot},
                              std::pair{"e2e", LatencyKind::e2e}};

double ratio(double part, double whole) { return whole > 0 ? part / whole : 0; }

/// The quantile of `values`, ascending, and `missing` infinite ones behind them.
double quantile_with_missing(const std::vector<double>& values, std::size_t missing, double share) {
  if (values.size() + missing == 0) return not_a_number;
  const double place = share * static_cast<double>(values.size() + missing - 1);
  const auto below = static_cast<std::size_t>(place);
  const double part = place - static_cast<double>(below);
  const auto at = [&](std::size_t index) { return index < values.size() ? values[index] : infinite; };
  return part == 0 || below >= values.size() ? at(below) : at(below) + part * (at(below + 1) - at(below));
}

Error invalid(std::string_view text, const std::string& what) {
  return {ErrorCode::invalid_argument, what, {.parameter = "--slo", .value = std::string(text)}};
}

std::string name_of(const LatencyLimit& limit) {
  std::string name;
  for (const auto& [known, kind] : kinds) {
    if (kind == limit.kind) name = known;
  }
  if (!limit.quantile) return name + "_mean";
  return *limit.quantile == 1 ? name + "_max" : fmt::format("{}_p{:.6g}", name, 100 * *limit.quantile);
}

double seconds_of(std::string_view limit, std::string_view text) {
  double value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  constexpr std::array units = {std::pair{"", 1.0}, std::pair{"s", 1.0}, std::pair{"ms", 1e-3}, std::pair{"us", 1e-6},
                                std::pair{"min", 60.0}};
  const auto* const found =
      std::find_if(units.begin(), units.end(), [&](const auto& known) { return known.first == unit; });
  if (problem != std::errc{} || found == units.end() || !(value > 0) || !std::isfinite(value)) {
    throw invalid(limit, "expected a time above 0, such as 2s, 50ms or 0.05");
  }
  return value * found->second;
}

LatencyLimit limit_of(std::string_view text) {
  const std::size_t equals = text.find('=');
  const std::size_t underscore = text.find('_');
  if (equals == std::string_view::npos || underscore > equals) {
    throw invalid(text, "expected limits such as ttft_p99=2s,tpot_p99=50ms,e2e_mean=30s");
  }
  LatencyLimit limit;
  const std::string_view kind = text.substr(0, underscore);
  const auto* const found =
      std::find_if(kinds.begin(), kinds.end(), [&](const auto& known) { return known.first == kind; });
  if (found == kinds.end()) {
    throw Error(ErrorCode::unknown_name, "expected a limit on ttft, tpot or e2e",
                {.parameter = "--slo", .value = std::string(text)});
  }
  limit.kind = found->second;
  const std::string_view statistic = text.substr(underscore + 1, equals - underscore - 1);
  if (statistic == "max") {
    limit.quantile = 1;
  } else if (statistic.starts_with('p')) {
    double percent = 0;
    const auto [end, problem] = std::from_chars(statistic.data() + 1, statistic.data() + statistic.size(), percent);
    if (problem != std::errc{} || end != statistic.data() + statistic.size() || !(percent > 0 && percent <= 100)) {
      throw invalid(text, "expected a percentile above 0, at most 100, such as p99 or p99.9");
    }
    limit.quantile = percent / 100;
  } else if (statistic != "mean") {
    throw Error(ErrorCode::unknown_name, "expected _mean, _max or a percentile such as _p99",
                {.parameter = "--slo", .value = std::string(text)});
  }
  limit.seconds = seconds_of(text, text.substr(equals + 1));
  return limit;
}

}  // namespace

Latencies::Latencies(std::vector<double> seconds, std::size_t missing)
    : seconds_(std::move(seconds)), missing_(missing), mean_(not_a_number) {
  std::sort(seconds_.begin(), seconds_.end());
  if (seconds_.empty()) return;
  double sum = 0;
  for (const double value : seconds_) sum += value;
  mean_ = sum / static_cast<double>(seconds_.size());
}

double Latencies::quantile(double share) const { return quantile_with_missing(seconds_, 0, share); }

double Latencies::mean_of_all() const { return missing_ > 0 ? infinite : mean_; }

double Latencies::quantile_of_all(double share) const { return quantile_with_missing(seconds_, missing_, share); }

ServiceMetrics ServiceMetrics::of(const ServingResult& result) {
  ServiceMetrics metrics;
  metrics.requests = static_cast<std::int64_t>(result.requests.size());
  metrics.completed = result.completed;
  metrics.refused = result.refused;
  std::vector<double> ttft, tpot, e2e;
  std::size_t without_first = 0, without_last = 0, without_pace = 0;
  std::int64_t output = 0, prompt = 0;
  Time begin = result.end;
  for (const RequestRecord& record : result.requests) {
    begin = std::min(begin, record.arrival);
    output += record.generated_tokens;
    const bool completed = record.status == RequestStatus::completed;
    if (record.first_token != not_yet) {
      ttft.push_back(to_seconds(record.first_token - record.arrival));
    } else {
      ++without_first;
    }
    if (completed) {
      e2e.push_back(to_seconds(record.finish - record.arrival));
      prompt += record.prompt_tokens;
    } else {
      ++without_last;
    }
    if (record.output_tokens < 2) continue;
    if (const auto pace = record.seconds_per_output_token()) {
      tpot.push_back(*pace);
    } else {
      ++without_pace;
    }
  }
  metrics.ttft = Latencies(std::move(ttft), without_first);
  metrics.tpot = Latencies(std::move(tpot), without_pace);
  metrics.e2e = Latencies(std::move(e2e), without_last);
  metrics.seconds = to_seconds(result.end - begin);
  metrics.output_tokens_per_second = ratio(static_cast<double>(output), metrics.seconds);
  metrics.total_tokens_per_second = ratio(static_cast<double>(output + prompt), metrics.seconds);
  metrics.completed_per_second = ratio(static_cast<double>(result.completed), metrics.seconds);
  metrics.running_mean = ratio(result.running.value(), metrics.seconds);
  metrics.waiting_mean = ratio(result.waiting.value(), metrics.seconds);
  ReplicaTotals totals;
  Time busy = 0;
  for (const ReplicaTotals& replica : result.replicas) {
    totals.steps += replica.steps;
    totals.step_sequences += replica.step_sequences;
    totals.preemptions += replica.preemptions;
    totals.queried_tokens += replica.queried_tokens;
    totals.cached_tokens += replica.cached_tokens;
    metrics.peak_used_blocks = std::max(metrics.peak_used_blocks, replica.peak_used_blocks);
    for (std::size_t tier = 0; tier < replica.tiers.size(); ++tier) {
      const KvTierTotals& of_tier = replica.tiers[tier];
      TierMetrics& sum = metrics.tiers[tier];
      sum.hit_rate += static_cast<double>(of_tier.loaded_tokens);
      sum.peak_bytes = std::max(sum.peak_bytes, static_cast<double>(of_tier.peak_bytes));
      sum.up_utilisation += to_seconds(of_tier.up_busy);
      sum.down_utilisation += to_seconds(of_tier.down_busy);
    }
    busy += replica.busy;
  }
  metrics.batch_mean = ratio(static_cast<double>(totals.step_sequences), static_cast<double>(totals.steps));
  metrics.preemptions = totals.preemptions;
  metrics.prefix_hit_rate =
      ratio(static_cast<double>(totals.cached_tokens), static_cast<double>(totals.queried_tokens));
  const double replica_seconds = metrics.seconds * static_cast<double>(result.replicas.size());
  for (TierMetrics& tier : metrics.tiers) {
    tier.hit_rate = ratio(tier.hit_rate, static_cast<double>(totals.queried_tokens));
    tier.up_utilisation = ratio(tier.up_utilisation, replica_seconds);
    tier.down_utilisation = ratio(tier.down_utilisation, replica_seconds);
  }
  metrics.utilisation = ratio(to_seconds(busy), replica_seconds);
  return metrics;
}

ServiceObjective ServiceObjective::parse(std::string_view text) {
  ServiceObjective objective;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    objective.limits.push_back(limit_of(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  return objective;
}

std::string ServiceObjective::misses(const ServiceMetrics& metrics) const {
  for (const LatencyLimit& limit : limits) {
    const Latencies& latencies = limit.kind == LatencyKind::ttft   ? metrics.ttft
                                 : limit.kind == LatencyKind::tpot ? metrics.tpot
                                                                   : metrics.e2e;
    const double value = limit.quantile ? latencies.quantile_of_all(*limit.quantile) : latencies.mean_of_all();
    // Without any value (no request has a second token) nothing is late.
    if (value > limit.seconds) {
      return fmt::format("{} is {}, limit {:.6g} s", name_of(limit),
                         std::isfinite(value) ? fmt::format("{:.4g} s", value) : "infinite: requests were not served",
                         limit.seconds);
    }
  }
  return {};
}

}  // namespace evictsim::sim

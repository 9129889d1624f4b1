#include "analysis/plan_eviction.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "analysis/pareto_front.h"
#include "policies/policy.h"
#include "traces/error.h"

namespace evictsim::analysis {

void fill_eviction(const sim::CacheProfile& profile, const sim::ServingResult& result, double kv_bytes_per_token,
                   bool tiers, PlanRow& row) {
  double recalled = 0;
  std::vector<std::pair<sim::Time, double>> changes;  // of the bytes in host memory
  for (const sim::RequestRecord& record : result.requests) {
    if (record.first_token == sim::not_yet) continue;
    const auto decoded = static_cast<double>(std::max<std::int64_t>(0, record.generated_tokens - 1));
    recalled += decoded * profile.recalled_entries(record.prompt_tokens);
    const double held = profile.host_share * static_cast<double>(record.prompt_tokens) * kv_bytes_per_token;
    if (tiers || held == 0) continue;
    changes.emplace_back(record.first_token, held);
    if (record.finish != sim::not_yet) changes.emplace_back(record.finish, -held);
  }
  const double seconds = sim::to_seconds(result.end);
  row.recall_bytes_per_second = seconds > 0 ? recalled * kv_bytes_per_token / seconds : 0;
  std::sort(changes.begin(), changes.end());  // who leaves at an instant does so first
  double held = 0, peak = 0;
  for (const auto& [time, bytes] : changes) {
    held += bytes;
    peak = std::max(peak, held);
  }
  row.host_bytes_peak += peak;
}

bool is_oracle(const std::string& policy) {
  try {
    return policies::parse_policy(policy).is_oracle();
  } catch (const Error&) {
    return false;
  }
}

void mark_frontier(std::span<PlanRow> rows, bool fewest_gpus) {
  const auto gain = [&](const PlanRow& row) {
    if (fewest_gpus) return row.slo_met == 1 ? -row.gpus : PlanRow::none;
    return std::isnan(row.goodput) ? row.output_tokens_per_second : row.goodput;
  };
  const auto comparable = [&](const PlanRow& row) {
    return row.ok() && !std::isnan(gain(row)) && !std::isnan(row.output_error);
  };
  const bool predicted = std::none_of(
      rows.begin(), rows.end(), [&](const PlanRow& row) { return comparable(row) && std::isnan(row.predicted_kl); });
  const auto damage = [&](const PlanRow& row) { return predicted ? row.predicted_kl : row.output_error; };
  std::vector<double> damages, costs;
  for (const PlanRow& row : rows) {
    damages.push_back(comparable(row) && !is_oracle(row.policy) ? damage(row) : PlanRow::none);
    costs.push_back(-gain(row));
  }
  const std::vector<std::uint8_t> on = pareto_front(damages, costs);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (comparable(rows[i])) rows[i].frontier = on[i];
  }
}

}  // namespace evictsim::analysis

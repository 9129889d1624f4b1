#include "analysis/tier_sums.h"

#include <algorithm>
#include <numeric>

namespace evictsim::analysis {
namespace {

void add_bytes(policies::TierBytes& sum, const policies::TierBytes& bytes, double factor = 1) {
  for (std::size_t tier = 0; tier < policies::tier_count; ++tier) sum.bytes[tier] += factor * bytes.bytes[tier];
}

double over_tiers(const policies::TierBytes& bytes) {
  return std::accumulate(bytes.bytes.begin(), bytes.bytes.end(), 0.0);
}

}  // namespace

void TierSums::begin(const std::optional<policies::TierBytes>& stored, double kept_bytes) {
  placed_ = stored.has_value();
  if (placed_) {
    stored_ = *stored;
  } else {
    stored_[policies::Tier::hbm] = kept_bytes;
  }
}

void TierSums::add(std::span<const policies::StepTraffic> steps) {
  for (const policies::StepTraffic& step : steps) {
    add_bytes(traffic_.recalled, step.recalled);
    add_bytes(traffic_.written, step.written);
    add_bytes(traffic_.scanned, step.scanned);
    traffic_.hits += step.hits;
    traffic_.misses += step.misses;
  }
  rows_ += std::ssize(steps);
}

void TierSums::fill(const std::vector<const TierSums*>& layers, bool evaluated, RunRow& row) {
  policies::TierBytes stored;
  policies::StepTraffic per_step;
  bool placed = false;
  for (const TierSums* layer : layers) {
    placed |= layer->placed_;
    add_bytes(stored, layer->stored_);
    const double factor = 1.0 / static_cast<double>(std::max<std::int64_t>(1, layer->rows_));
    add_bytes(per_step.recalled, layer->traffic_.recalled, factor);
    add_bytes(per_step.written, layer->traffic_.written, factor);
    add_bytes(per_step.scanned, layer->traffic_.scanned, factor);
    per_step.hits += layer->traffic_.hits;
    per_step.misses += layer->traffic_.misses;
  }
  if (placed) row[Metric::kept_bytes] = stored[policies::Tier::hbm];
  row[Metric::host_bytes] = stored[policies::Tier::host];
  row[Metric::disk_bytes] = stored[policies::Tier::disk];
  if (!evaluated) return;
  row[Metric::recall_bytes_per_step] = over_tiers(per_step.recalled);
  row[Metric::recall_bytes_host_per_step] = per_step.recalled[policies::Tier::host];
  row[Metric::recall_bytes_disk_per_step] = per_step.recalled[policies::Tier::disk];
  row[Metric::written_bytes_per_step] = over_tiers(per_step.written);
  row[Metric::scanned_bytes_per_step] = over_tiers(per_step.scanned);
  const std::int64_t chosen = per_step.hits + per_step.misses;
  if (chosen > 0) {
    row[Metric::recall_hit_share] = static_cast<double>(per_step.hits) / static_cast<double>(chosen);
  }
}

}  // namespace evictsim::analysis

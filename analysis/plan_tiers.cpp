#include "analysis/plan_tiers.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace evictsim::analysis {
namespace {

struct TierColumns {
  std::string_view name;
  double PlanRow::*memory;
  double PlanRow::*hit_rate;
  double PlanRow::*bytes_peak;
  double PlanRow::*load_utilisation;
  double PlanRow::*store_utilisation;
};

constexpr std::array columns = {
    TierColumns{"host", &PlanRow::host_memory, &PlanRow::host_hit_rate, &PlanRow::host_bytes_peak,
                &PlanRow::host_load_utilisation, &PlanRow::host_store_utilisation},
    TierColumns{"disk", &PlanRow::disk_memory, &PlanRow::disk_hit_rate, &PlanRow::disk_bytes_peak,
                &PlanRow::disk_load_utilisation, &PlanRow::disk_store_utilisation},
    TierColumns{"remote", &PlanRow::remote_memory, &PlanRow::remote_hit_rate, &PlanRow::remote_bytes_peak,
                &PlanRow::remote_load_utilisation, &PlanRow::remote_store_utilisation},
};

const TierColumns& columns_of(std::string_view name) {
  return *std::find_if(columns.begin(), columns.end(), [&](const TierColumns& each) { return each.name == name; });
}

const char* name_of(sim::WriteDown write) {
  switch (write) {
    case sim::WriteDown::none:
      return "none";
    case sim::WriteDown::back:
      return "back";
    default:
      return "through";
  }
}

const char* name_of(sim::LoadRule rule) {
  switch (rule) {
    case sim::LoadRule::load:
      return "load";
    case sim::LoadRule::recompute:
      return "recompute";
    default:
      return "auto";
  }
}

}  // namespace

void set_tiers(const sim::TiersSetup& setup, PlanRow& row) {
  if (setup.tiers.empty()) return;
  for (const sim::TierSetup& tier : setup.tiers) row.*columns_of(tier.name).memory = tier.gib_per_gpu;
  row.tier_policy = setup.policy.text;
  row.tier_write = name_of(setup.write_down);
  row.load_or_recompute = name_of(setup.rule);
  row.layer_overlap = setup.layer_overlap ? 1 : 0;
}

void fill_tiers(const sim::ServingOptions& options, const sim::ServiceMetrics& metrics, PlanRow& row) {
  row.host_bytes_peak = 0;
  if (!options.tiers) return;
  for (std::size_t i = 0; i < options.tiers->tiers.size(); ++i) {
    const TierColumns& tier = columns_of(options.tiers->tiers[i].name);
    const sim::TierMetrics& found = metrics.tiers[i];
    row.*tier.hit_rate = found.hit_rate;
    row.*tier.bytes_peak = found.peak_bytes;
    row.*tier.load_utilisation = found.up_utilisation;
    row.*tier.store_utilisation = found.down_utilisation;
  }
}

}  // namespace evictsim::analysis

#include "analysis/tier_detail.h"

#include <cmath>
#include <numeric>
#include <span>

namespace evictsim::analysis {
namespace {

using policies::Tier;

// In the order of TierDetail::Bytes; the first is there without a placement too.
constexpr std::array names = {"stored_hbm_bytes",    "stored_host_bytes",   "stored_disk_bytes",
                              "recalled_host_bytes", "recalled_disk_bytes", "written_hbm_bytes",
                              "written_host_bytes",  "written_disk_bytes",  "scanned_bytes"};

std::int64_t whole(double bytes) { return std::llround(bytes); }

}  // namespace

TierDetail::TierDetail(std::size_t layers, std::size_t steps, bool by_layer)
    : by_layer_(by_layer),
      steps_(steps),
      bytes_((by_layer ? layers : 1) * steps, Bytes{}),
      evaluated_(bytes_.size(), 0) {}

void TierDetail::add(const sim::LayerBlock& block, std::size_t index, std::size_t step, std::int64_t entry_bytes) {
  const std::size_t place = (by_layer_ ? block.layer * steps_ : 0) + step;
  Bytes& bytes = bytes_[place];
  evaluated_[place] = 1;
  if (block.stored.empty()) {
    const std::size_t heads = block.resident.size() / block.rows.size();
    const auto sum = [&](std::span<const std::int32_t> counts) {
      const auto of_row = counts.subspan(index * heads, heads);
      return std::accumulate(of_row.begin(), of_row.end(), std::int64_t{0});
    };
    bytes[0] += (sum(block.resident) - sum(block.evicted)) * entry_bytes;
    return;
  }
  placed_ = true;
  const policies::TierBytes& stored = block.stored[index];
  const policies::StepTraffic& traffic = block.traffic[index];
  const std::array<double, quantities> moved = {
      stored[Tier::hbm],
      stored[Tier::host],
      stored[Tier::disk],
      traffic.recalled[Tier::host],
      traffic.recalled[Tier::disk],
      traffic.written[Tier::hbm],
      traffic.written[Tier::host],
      traffic.written[Tier::disk],
      traffic.scanned[Tier::hbm] + traffic.scanned[Tier::host] + traffic.scanned[Tier::disk]};
  for (std::size_t quantity = 0; quantity < quantities; ++quantity) bytes[quantity] += whole(moved[quantity]);
}

std::vector<DetailArray> TierDetail::arrays() const {
  static_assert(names.size() == quantities);
  std::vector<DetailArray> arrays;
  for (std::size_t quantity = 0; quantity < (placed_ ? quantities : 1); ++quantity) {
    DetailArray& array = arrays.emplace_back();
    array.name = names[quantity];
    array.axes = by_layer_ ? "layer,step" : "step";
    if (by_layer_) array.shape.push_back(steps_ == 0 ? 0 : bytes_.size() / steps_);
    array.shape.push_back(steps_);
    for (std::size_t place = 0; place < bytes_.size(); ++place) {
      array.values.push_back(evaluated_[place] != 0 ? static_cast<double>(bytes_[place][quantity]) : not_available);
    }
  }
  return arrays;
}

}  // namespace evictsim::analysis

#include "policies/tier_recall.h"

#include <algorithm>
#include <iterator>

namespace evictsim::policies {

TierRecall::TierRecall(Tier tier, const Parameters& parameters)
    : tier_(tier),
      page_(parameters.integer("page")),
      recall_(parameters.integer("recall")),
      group_(group_choice_of(parameters)) {}

std::vector<ParameterSpec> TierRecall::parameters() {
  return {integer_parameter("page", "16", 1, 65536, "entries of a page"),
          integer_parameter("recall", "4", 0, 1e9, "pages recalled per decode row and KV head"),
          group_choice_parameter()};
}

Index TierRecall::log_cold(const PlacementView& layer) {
  Index logged = 0;
  for (int head = 0; head < layer.hot().heads(); ++head) {
    const auto place = static_cast<std::size_t>(head);
    logged += std::ssize(logs_[place].append(layer.cold(head), layer.hot().seen()));
    digests_[place].cover(logs_[place].rows(), layer.keys(kv_head_of(layer, head)));
  }
  return logged;
}

void TierRecall::begin(const PlacementView& layer) {
  const auto heads = static_cast<std::size_t>(layer.hot().heads());
  logs_.resize(heads);
  digests_.assign(heads, PageDigests(page_));
  log_cold(layer);
}

void TierRecall::cut(const PlacementView& layer) { written_ += exact_bytes(layer, log_cold(layer)); }

void TierRecall::attend(const PlacementView& layer, AttendedEntries& attended) {
  attended.traffic.written[tier_] += written_;
  written_ = 0;
  for (int head = 0; head < layer.hot().heads(); ++head) {
    const PageDigests& digests = digests_[static_cast<std::size_t>(head)];
    std::vector<std::int32_t> recalled;
    if (digests.size() > 0) {
      const QueryHeads queries = layer.hot().query_heads(head);
      std::vector<std::vector<double>> bounds;
      for (int i = 0; i < queries.count; ++i) {
        bounds.push_back(digests.bounds(digests.size(), layer.query(queries.first + i)));
      }
      for (const Index page : best_places(agree(group_, bounds), recall_)) {
        const auto rows = digests.rows(page);
        recalled.insert(recalled.end(), rows.begin(), rows.end());
      }
      std::sort(recalled.begin(), recalled.end());
      attended.traffic.scanned[Tier::hbm] += static_cast<double>(digests.components() * layer.component_bytes());
    }
    const auto hot = layer.hot().entries(head);
    std::vector<std::int32_t> rows;
    std::merge(hot.begin(), hot.end(), recalled.begin(), recalled.end(), std::back_inserter(rows));
    attend_rows(layer, head, rows, attended);
    attended.traffic.recalled[tier_] += exact_bytes(layer, std::ssize(recalled));
    count_hits_and_misses(layer, head, std::ssize(recalled), attended);
  }
}

TierBytes TierRecall::stored(const PlacementView& layer) const {
  TierBytes bytes = hot_bytes(layer);
  for (const PageDigests& digests : digests_) {
    bytes[Tier::hbm] += static_cast<double>(digests.components() * layer.component_bytes());
  }
  for (const ColdLog& log : logs_) bytes[tier_] += exact_bytes(layer, std::ssize(log.rows()));
  return bytes;
}

}  // namespace evictsim::policies

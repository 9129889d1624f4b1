#include "policies/merge_on_evict.h"

namespace evictsim::policies {

void MergeOnEvict::begin(const PlacementView& layer) {
  logs_.resize(static_cast<std::size_t>(layer.hot().heads()));
  rows_.resize(logs_.size());
  merge_all(layer);
}

void MergeOnEvict::cut(const PlacementView& layer) { merge_all(layer); }

void MergeOnEvict::merge_all(const PlacementView& layer) {
  for (int head = 0; head < layer.hot().heads(); ++head) {
    const auto place = static_cast<std::size_t>(head);
    rows_[place].keys.follow(layer.keys(kv_head_of(layer, head)));
    rows_[place].values.follow(layer.values(kv_head_of(layer, head)));
    const auto evicted = logs_[place].append(layer.cold(head), layer.hot().seen());
    if (!evicted.empty() && !layer.hot().entries(head).empty()) merge(layer, head, evicted, rows_[place]);
  }
}

void MergeOnEvict::attend(const PlacementView& layer, AttendedEntries& attended) {
  for (int head = 0; head < layer.hot().heads(); ++head) {
    const auto place = static_cast<std::size_t>(head);
    rows_[place].keys.follow(layer.keys(kv_head_of(layer, head)));
    rows_[place].values.follow(layer.values(kv_head_of(layer, head)));
  }
  count_hits(layer, attended);
}

models::MatrixView MergeOnEvict::attended_keys(const PlacementView&, int head) const {
  return rows_[static_cast<std::size_t>(head)].keys.view();
}

models::MatrixView MergeOnEvict::attended_values(const PlacementView&, int head) const {
  return rows_[static_cast<std::size_t>(head)].values.view();
}

TierBytes MergeOnEvict::stored(const PlacementView& layer) const { return hot_bytes(layer); }

}  // namespace evictsim::policies

#include "policies/in_place_codes.h"

#include <algorithm>
#include <iterator>

namespace evictsim::policies {

void InPlaceCodes::begin(const PlacementView& layer) {
  prepare(layer);
  heads_.resize(static_cast<std::size_t>(layer.hot().heads()));
  encode_all(layer);
  written_ = 0;
}

void InPlaceCodes::encode_all(const PlacementView& layer) {
  for (int head = 0; head < layer.hot().heads(); ++head) {
    Head& own = heads_[static_cast<std::size_t>(head)];
    own.keys.follow(layer.keys(kv_head_of(layer, head)));
    own.values.follow(layer.values(kv_head_of(layer, head)));
    const Index before = own.bytes;
    encode(layer, head, own);
    written_ += static_cast<double>(own.bytes - before);
  }
}

void InPlaceCodes::attend(const PlacementView& layer, AttendedEntries& attended) {
  encode_all(layer);
  attended.traffic.written[Tier::hbm] += written_;
  written_ = 0;
  for (int head = 0; head < layer.hot().heads(); ++head) {
    const auto hot = layer.hot().entries(head);
    const auto cold = layer.cold(head);
    std::vector<std::int32_t> rows;
    std::merge(hot.begin(), hot.end(), cold.begin(), cold.end(), std::back_inserter(rows));
    attend_rows(layer, head, rows, attended);
    count_hits(layer, head, attended);
  }
}

models::MatrixView InPlaceCodes::attended_keys(const PlacementView&, int head) const {
  return heads_[static_cast<std::size_t>(head)].keys.view();
}

models::MatrixView InPlaceCodes::attended_values(const PlacementView&, int head) const {
  return heads_[static_cast<std::size_t>(head)].values.view();
}

TierBytes InPlaceCodes::stored(const PlacementView& layer) const {
  TierBytes bytes;
  for (const Head& own : heads_) {
    const Index exact_numbers = 2 * layer.hot().seen() - own.coded_keys - own.coded_values;
    bytes[Tier::hbm] += exact_bytes(layer, exact_numbers) / 2 + static_cast<double>(own.bytes);
  }
  return bytes;
}

}  // namespace evictsim::policies

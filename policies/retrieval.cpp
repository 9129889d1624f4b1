#include "policies/retrieval.h"

#include <iterator>
#include <numeric>

namespace evictsim::policies {

std::vector<Index> best_places(std::span<const double> scores, Index count) {
  std::vector<Index> places(scores.size());
  std::iota(places.begin(), places.end(), Index{0});
  if (count < std::ssize(places)) {
    const auto better = [&](Index a, Index b) {
      const double first = scores[static_cast<std::size_t>(a)];
      const double second = scores[static_cast<std::size_t>(b)];
      return first != second ? first > second : a < b;
    };
    const auto end = places.begin() + std::max<Index>(count, 0);
    std::nth_element(places.begin(), end, places.end(), better);
    places.erase(end, places.end());
    std::sort(places.begin(), places.end());
  }
  return places;
}

int kv_head_of(const PlacementView& layer, int head) {
  return layer.hot().geometry().kv_head_of(layer.hot().query_heads(head).first);
}

TierBytes hot_bytes(const PlacementView& layer) {
  TierBytes bytes;
  for (int head = 0; head < layer.hot().heads(); ++head) {
    const Index numbers = std::ssize(layer.hot().entries(head)) * layer.hot().geometry().head_dim * 2;
    bytes[Tier::hbm] += static_cast<double>(numbers * layer.component_bytes());
  }
  return bytes;
}

double dot(std::span<const float> query, const models::MatrixView& keys, Index row) {
  const float* key = keys.data() + row * keys.outerStride();
  double sum = 0;
  for (std::size_t i = 0; i < query.size(); ++i) sum += static_cast<double>(query[i]) * static_cast<double>(key[i]);
  return sum;
}

ParameterSpec group_choice_parameter() {
  return choice_parameter("group", {"max", "mean"}, "how the query heads of a group agree on one choice");
}

GroupChoice group_choice_of(const Parameters& parameters) {
  return parameters.choice("group") == "max" ? GroupChoice::max : GroupChoice::mean;
}

std::vector<double> agree(GroupChoice choice, const std::vector<std::vector<double>>& rows) {
  std::vector<double> agreed = rows.front();
  for (std::size_t i = 0; i < agreed.size(); ++i) {
    for (std::size_t row = 1; row < rows.size(); ++row) {
      agreed[i] = choice == GroupChoice::max ? std::max(agreed[i], rows[row][i]) : agreed[i] + rows[row][i];
    }
    if (choice == GroupChoice::mean) agreed[i] /= static_cast<double>(rows.size());
  }
  return agreed;
}

void attend_rows(const PlacementView& layer, int head, const std::vector<std::int32_t>& rows,
                 AttendedEntries& attended) {
  const QueryHeads queries = layer.hot().query_heads(head);
  for (int i = 0; i < queries.count; ++i) attended.rows[static_cast<std::size_t>(queries.first + i)] = rows;
}

std::vector<std::int32_t> attended_rows(const PlacementView& layer, int head, const AttendedEntries& attended) {
  const QueryHeads queries = layer.hot().query_heads(head);
  std::vector<std::int32_t> all = attended.rows[static_cast<std::size_t>(queries.first)];
  for (int i = 1; i < queries.count; ++i) {
    const auto& other = attended.rows[static_cast<std::size_t>(queries.first + i)];
    if (other == all) continue;
    std::vector<std::int32_t> both;
    std::set_union(all.begin(), all.end(), other.begin(), other.end(), std::back_inserter(both));
    all = std::move(both);
  }
  return all;
}

void count_hits(const PlacementView& layer, int head, AttendedEntries& attended) {
  count_hits_and_misses(layer, head, 0, attended);
}

void count_hits(const PlacementView& layer, AttendedEntries& attended) {
  for (int head = 0; head < layer.hot().heads(); ++head) count_hits(layer, head, attended);
}

void count_hits_and_misses(const PlacementView& layer, int head, Index recalled, AttendedEntries& attended) {
  attended.traffic.hits += std::ssize(attended_rows(layer, head, attended)) - recalled;
  attended.traffic.misses += recalled;
}

std::span<const std::int32_t> ColdLog::append(std::span<const std::int32_t> cold, Index before) {
  const std::size_t begin = rows_.size();
  for (const std::int32_t row : cold) {
    const auto place = static_cast<std::size_t>(row);
    if (row >= before) break;
    if (place >= known_.size()) known_.resize(place + 1, 0);
    if (known_[place] != 0) continue;
    known_[place] = 1;
    rows_.push_back(row);
  }
  return std::span(rows_).subspan(begin);
}

void ChangedRows::follow(const models::MatrixView& recorded) {
  columns_ = recorded.cols();
  numbers_.reserve(static_cast<std::size_t>(recorded.size()));
  for (; rows_ < recorded.rows(); ++rows_) {
    const float* row = recorded.data() + rows_ * recorded.outerStride();
    numbers_.insert(numbers_.end(), row, row + columns_);
  }
}

void ChangedKeys::attend(const PlacementView& layer, AttendedEntries& attended) {
  for (int head = 0; head < layer.hot().heads(); ++head) changed_keys(layer, head);
  count_hits(layer, attended);
}

ChangedRows& ChangedKeys::changed_keys(const PlacementView& layer, int head) {
  keys_.resize(static_cast<std::size_t>(layer.hot().heads()));
  ChangedRows& keys = keys_[static_cast<std::size_t>(head)];
  keys.follow(layer.keys(kv_head_of(layer, head)));
  return keys;
}

}  // namespace evictsim::policies

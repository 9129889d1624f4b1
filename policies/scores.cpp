#include "policies/scores.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>
#include <string>

#include "traces/error.h"

namespace evictsim::policies {
namespace {

/// One number per entry of a head, smaller = better, all different: results never depend on the algorithm that sorts.
/// The upper half orders by score (protected entries first), the lower by place (raised entries first, from the
/// newest).
std::vector<std::uint64_t> ranking_keys(const LayerScores& scores, int head) {
  const std::span<const float> values = scores.of(head);
  std::vector<std::uint64_t> keys(values.size());
  for (std::size_t place = 0; place < values.size(); ++place) {
    // Flipped so that unsigned order is falling float order; + 0 makes the two zeros equal.
    const auto bits = std::bit_cast<std::uint32_t>(values[place] + 0.0F);
    const std::uint32_t falling = (bits & 0x80000000U) != 0 ? bits : ~bits & 0x7fffffffU;
    keys[place] = (std::uint64_t{falling} << 32U) | (values.size() + place);
  }
  if (scores.has_raised(head)) {
    for (std::size_t place = 0; place < keys.size(); ++place) {
      if (!scores.is_raised(head, static_cast<Index>(place))) continue;
      keys[place] -= 2 * place + 1;  // values.size() - 1 - place in the lower half
    }
  }
  if (scores.protected_count(head) > 0) {
    for (std::size_t place = 0; place < keys.size(); ++place) {
      if (scores.is_protected(head, static_cast<Index>(place))) keys[place] = keys.size() - place;
    }
  }
  if (scores.dropped_count(head) > 0) {
    for (std::size_t place = 0; place < keys.size(); ++place) {
      if (scores.is_dropped(head, static_cast<Index>(place))) keys[place] = ~std::uint64_t{0} - keys.size() + place;
    }
  }
  return keys;
}

}  // namespace

LayerScores::LayerScores(const LayerView& layer)
    : values_(static_cast<std::size_t>(layer.heads())),
      protected_(static_cast<std::size_t>(layer.heads())),
      raised_(static_cast<std::size_t>(layer.heads())),
      dropped_(static_cast<std::size_t>(layer.heads())) {
  for (int head = 0; head < layer.heads(); ++head) {
    values_[static_cast<std::size_t>(head)].assign(layer.entries(head).size(), 0.0F);
  }
}

void LayerScores::mark(std::vector<Marks>& all, int head, Index first, Index last) const {
  if (last <= first) return;
  Marks& marks = all[static_cast<std::size_t>(head)];
  const Index entries = std::ssize(values_[static_cast<std::size_t>(head)]);
  if (first < 0 || last > entries) {
    throw Error(ErrorCode::policy_failure, "a policy marks an entry that the head does not have",
                {.value = std::to_string(first < 0 ? first : last - 1)});
  }
  if (marks.of_entry.empty()) marks.of_entry.assign(static_cast<std::size_t>(entries), 0);
  for (Index entry = first; entry < last; ++entry) {
    std::uint8_t& is_marked = marks.of_entry[static_cast<std::size_t>(entry)];
    marks.count += 1 - is_marked;
    is_marked = 1;
  }
}

void LayerScores::raise(int head, Index entry, float score) {
  mark(raised_, head, entry, entry + 1);
  values_[static_cast<std::size_t>(head)][static_cast<std::size_t>(entry)] = score;
}

std::vector<std::int32_t> rank_entries(const LayerScores& scores, int head) {
  const std::vector<std::uint64_t> keys = ranking_keys(scores, head);
  std::vector<std::int32_t> places(keys.size());
  std::iota(places.begin(), places.end(), 0);
  std::sort(places.begin(), places.end(), [&keys](std::int32_t a, std::int32_t b) {
    return keys[static_cast<std::size_t>(a)] < keys[static_cast<std::size_t>(b)];
  });
  return places;
}

std::vector<std::int32_t> select_best(const LayerScores& scores, int head, Index count) {
  const std::vector<std::uint64_t> keys = ranking_keys(scores, head);
  const auto kept = static_cast<std::size_t>(std::clamp<Index>(count, 0, std::ssize(keys)));
  std::uint64_t best_dropped = std::numeric_limits<std::uint64_t>::max();
  if (kept + 1 == keys.size()) {
    // What every step of a policy that cuts while decoding asks for.
    std::uint64_t largest = 0;
    for (const std::uint64_t key : keys) largest = std::max(largest, key);
    const auto worst = std::find(keys.begin(), keys.end(), largest) - keys.begin();
    std::vector<std::int32_t> places(kept);
    std::iota(places.begin(), places.begin() + worst, 0);
    std::iota(places.begin() + worst, places.end(), static_cast<std::int32_t>(worst) + 1);
    return places;
  }
  if (kept < keys.size()) {
    std::vector<std::uint64_t> order = keys;
    std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept), order.end());
    best_dropped = order[kept];
  }
  std::vector<std::int32_t> places;
  places.reserve(kept);
  for (std::size_t place = 0; place < keys.size(); ++place) {
    if (keys[place] < best_dropped) places.push_back(static_cast<std::int32_t>(place));
  }
  return places;
}

}  // namespace evictsim::policies

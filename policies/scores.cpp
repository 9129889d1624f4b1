#include "policies/scores.h"

#include <algorithm>
#include <numeric>

namespace evictsim::policies {
namespace {

/// Orders the places of a head's entries, best first; a strict total order, so results never depend on the algorithm.
class BetterEntry {
 public:
  BetterEntry(const LayerScores& scores, int head) : scores_(&scores), head_(head), values_(scores.of(head)) {}
  bool operator()(std::int32_t a, std::int32_t b) const {
    const bool a_protected = scores_->is_protected(head_, a);
    const bool b_protected = scores_->is_protected(head_, b);
    if (a_protected != b_protected) return a_protected;
    if (a_protected) return a > b;
    const float left = values_[static_cast<std::size_t>(a)];
    const float right = values_[static_cast<std::size_t>(b)];
    return left != right ? left > right : a < b;
  }

 private:
  const LayerScores* scores_;
  int head_;
  std::span<const float> values_;
};

std::vector<std::int32_t> all_places(const LayerScores& scores, int head) {
  std::vector<std::int32_t> places(scores.of(head).size());
  std::iota(places.begin(), places.end(), 0);
  return places;
}

}  // namespace

LayerScores::LayerScores(const LayerView& layer)
    : values_(static_cast<std::size_t>(layer.heads())), protected_(static_cast<std::size_t>(layer.heads())) {
  for (int head = 0; head < layer.heads(); ++head) {
    values_[static_cast<std::size_t>(head)].assign(layer.entries(head).size(), 0.0F);
  }
}

void LayerScores::protect(int head, Index entry) {
  std::vector<std::uint8_t>& marks = protected_[static_cast<std::size_t>(head)];
  if (marks.empty()) marks.assign(values_[static_cast<std::size_t>(head)].size(), 0);
  marks[static_cast<std::size_t>(entry)] = 1;
}

bool LayerScores::is_protected(int head, Index entry) const {
  const std::vector<std::uint8_t>& marks = protected_[static_cast<std::size_t>(head)];
  return !marks.empty() && marks[static_cast<std::size_t>(entry)] != 0;
}

Index LayerScores::protected_count(int head) const {
  const std::vector<std::uint8_t>& marks = protected_[static_cast<std::size_t>(head)];
  return std::count(marks.begin(), marks.end(), std::uint8_t{1});
}

std::vector<std::int32_t> rank_entries(const LayerScores& scores, int head) {
  std::vector<std::int32_t> places = all_places(scores, head);
  std::sort(places.begin(), places.end(), BetterEntry(scores, head));
  return places;
}

std::vector<std::int32_t> select_best(const LayerScores& scores, int head, Index count) {
  std::vector<std::int32_t> places = all_places(scores, head);
  const Index kept = std::clamp<Index>(count, 0, static_cast<Index>(places.size()));
  if (kept < static_cast<Index>(places.size())) {
    std::nth_element(places.begin(), places.begin() + kept, places.end(), BetterEntry(scores, head));
    places.resize(static_cast<std::size_t>(kept));
    std::sort(places.begin(), places.end());
  }
  return places;
}

}  // namespace evictsim::policies

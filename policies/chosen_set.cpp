#include "policies/chosen_set.h"

#include <algorithm>

namespace evictsim::policies {

void drop_all_but(LayerScores& scores, int head, std::span<const std::int32_t> places) {
  auto next = places.begin();
  for (Index place = 0; place < std::ssize(scores.of(head)); ++place) {
    if (next != places.end() && *next == place) {
      ++next;
    } else {
      scores.drop(head, place);
    }
  }
}

double share_of(const CutBudget& budget) {
  if (budget.cached <= 0) return 1.0;
  return std::min(budget.share > 0 ? budget.share : budget.exact_entries / static_cast<double>(budget.cached), 1.0);
}

CutBudget budget_of(double share, Index count) {
  const double exact = static_cast<double>(count) * share;
  return {.cached = count,
          .entries = std::max<std::int64_t>(1, static_cast<std::int64_t>(exact)),
          .exact_entries = exact,
          .share = share};
}

Needs needs_of_parts(Needs whole) {
  if (whole.window_queries > 0) whole.all_queries = true;
  return whole;
}

}  // namespace evictsim::policies

#pragma once
/// \file
/// For scorers that choose the kept set themselves, and keep the scores of the scorer they wrap on show.

#include <vector>

#include "policies/budget.h"
#include "policies/needs.h"
#include "policies/scores.h"

namespace evictsim::policies {

/// Drops every entry of the head that is not among `places` (ascending).
void drop_all_but(LayerScores& scores, int head, std::span<const std::int32_t> places);

/// Share of the cached entries that the budget keeps, at most 1.
double share_of(const CutBudget& budget);
/// The budget that is this share of `count` entries: kvpress' count, truncated and at least 1.
CutBudget budget_of(double share, Index count);

/// The scorer's needs where it scores parts of a cache: the last tokens of any part may be asked for.
Needs needs_of_parts(Needs whole);

}  // namespace evictsim::policies

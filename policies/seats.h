#pragma once
/// \file
/// Heads that compete for entries: one pool of seats, and the authors' mix of Ada-KV (arXiv 2407.11550), which LAVa
/// (arXiv 2509.09754) shares.

#include <span>
#include <vector>

#include "policies/scores.h"

namespace evictsim::policies {

/// An entry that competes with those of other heads.
struct Competitor {
  bool is_protected;
  double score;
  int head;    ///< any numbering of the heads that compete
  Index rank;  ///< place in its head's ranking
};

/// Adds to `counts[head]` how many of the best `seats` competitors belong to each head: protected ones first, then by
/// score; of equals the lower head's, then the better ranked. Reorders `competitors`.
void seat(std::vector<Competitor>& competitors, Index seats, std::span<Index> counts);

/// kvpress' Ada-KV for one layer: of the `counts` [heads] given, every head's best int(count * alpha) are safe (at
/// least one unless alpha is 0), then the layer's best win the other seats.
void share_with_safeguard(const LayerScores& scores, double alpha, std::span<Index> counts);

/// Ada-KV's authors' code for one layer: what is not protected competes for the sum of `base` [heads]; `counts` [heads]
/// become round(won * (1 - alpha) + floor), at most what the head has, with its protected entries beside it.
/// `normalize` weighs a head by the share of its score that its best `base` entries hold.
void share_unprotected(const LayerScores& scores, std::span<const Index> base, std::span<const Index> floor,
                       double alpha, bool normalize, std::span<Index> counts);

/// Whole numbers near `ideal` (each >= 0) that sum to `total`: rounded down, then one more for those with the largest
/// remainder, the earlier of equals first. A total beyond the number of remainders is not reached.
std::vector<Index> round_by_remainder(std::span<const double> ideal, Index total);

/// Entries of a head that compete: neither protected nor dropped.
Index unprotected_count(const LayerScores& scores, int head);

}  // namespace evictsim::policies

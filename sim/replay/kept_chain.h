#pragma once
/// \file
/// Kept sets of several budgets, stored as nested chains: every entry needs one number, and one pass over the entries
/// in chain order gives the attention output at every budget.

#include <cstdint>
#include <vector>

namespace evictsim::sim {

/// Points whose kept sets contain one another in every head, smallest first.
struct KeptChain {
  std::vector<std::size_t> points;  ///< indices into the plan's points
  /// [cache head][prompt row] the first member that keeps the entry; points.size() = none does.
  std::vector<std::vector<std::uint16_t>> level;
};

/// Kept rows of one point: [cache head], ascending.
struct KeptSets {
  std::size_t point = 0;
  std::vector<std::vector<std::int32_t>> kept;
};

/// Orders `sets` into as few chains as a greedy pass finds, each of at most `longest` members. All sets have the same
/// number of heads; rows are below `prompt_length`.
std::vector<KeptChain> build_chains(std::vector<KeptSets> sets, std::int64_t prompt_length, std::size_t longest);

}  // namespace evictsim::sim

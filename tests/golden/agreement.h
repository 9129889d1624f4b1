#pragma once
/// \file
/// The comparison rules of tests/golden/README.md.

#include <string>
#include <vector>

#include "tests/support/h5_file.h"
#include "tests/support/replay_collector.h"

namespace evictsim::test {

/// Path of a file in tests/golden/data.
std::string golden_path(const std::string& name);

/// Replays a trace of tests/golden/data under one policy and budget.
ReplayCollector replay_golden(const std::string& trace, const std::string& policy, const policies::Budget& budget,
                              bool with_resident = false);

/// How one head's scores and kept set compare.
struct Agreement {
  double largest_difference = 0;  ///< of an unprotected score, as a share of the spread
  double spread = 0;
  int equal_sets = 0;
  int tied_sets = 0;  ///< different only in entries within the tolerance of the cut
  int wrong_sets = 0;
  std::string first_fault;
  void add(const Agreement& other);
};

/// Golden scores of a layer, [head][n].
using Scores = std::vector<std::vector<double>>;

/// Highest minus lowest score of a layer that is neither protected (max + 1) nor the largest float.
double spread_of(const Scores& golden);
bool is_protected(const Scores& golden, double score);

/// `tolerance` is a share of the spread. `counts_move`: heads share a budget, so a tie may move a count between them.
Agreement compare_layer(const Scores& golden_scores, const std::vector<std::vector<std::int32_t>>& golden_kept,
                        const std::vector<std::vector<float>>& scores,
                        const std::vector<std::vector<std::int32_t>>& kept, double tolerance, bool counts_move);

/// One line of the table printed by the tests.
void print_row(const std::string& trace, const std::string& name, const Agreement& agreement);

}  // namespace evictsim::test

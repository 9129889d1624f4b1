#pragma once
/// \file
/// The groups of seeds-*.golden.h5 (seeds-a.md, seeds-b.md), and how a replay compares with one.

#include <map>
#include <string>
#include <vector>

#include "tests/golden/agreement.h"

namespace evictsim::test {

/// One system at one budget.
struct SeedGroup {
  std::string file;                               ///< "seeds-a.tiny-g2"
  std::string trace;                              ///< "tiny-g2"
  std::string id;                                 ///< the system, "rkv-w8-k7-lambda0.1-every4-score"
  std::string path;                               ///< "/<id>/<budget>"
  std::string policy;                             ///< the text that must reproduce it, files named
  std::string budget;                             ///< as the command line takes it
  std::map<std::string, std::string> attributes;  ///< of the system and the budget
};

/// All groups of tests/golden/data/<file>.golden.h5 whose `policy` is not empty.
std::vector<SeedGroup> seed_groups(const std::string& file);

/// How a replay compares with a group.
struct SeedAgreement {
  Agreement prompt;
  int rows = 0;          ///< rows of a head with the same entries resident
  int unequal = 0;       ///< rows of a head compared and found different, up to the first legitimate swap
  bool swapped = false;  ///< a near tie went the other way while decoding; nothing behind it was compared
  std::string first_fault;
  void add(const SeedAgreement& other);
};

/// Replays the group's policy and compares: scores and kept sets of the prompt's cut, counts per head, residents row by
/// row. `tolerance` is a share of the spread.
SeedAgreement compare_seed(const SeedGroup& group, double tolerance);

}  // namespace evictsim::test

// Do systems that kvpress lacks score, keep and evict what their authors' code (or a transcription of the paper) does?
#include <fmt/format.h>
#include <catch2/catch.hpp>

#include <algorithm>

#include "tests/golden/seeds.h"

namespace {

using namespace evictsim;
using namespace evictsim::test;

constexpr double tolerance = 1e-5;  // of the spread: seeds-a.md and seeds-b.md

void print_line(const SeedGroup& group, const SeedAgreement& agreement) {
  fmt::print(
      "{:16} {:54} score {:8.1e} of the spread   sets: {:3} equal, {:3} tied, {} wrong   rows: {:5} equal, {} "
      "not{} {}\n",
      group.file, group.id, agreement.prompt.largest_difference, agreement.prompt.equal_sets,
      agreement.prompt.tied_sets, agreement.prompt.wrong_sets, agreement.rows, agreement.unequal,
      agreement.swapped ? ", up to a near tie" : "", agreement.first_fault);
}

/// The groups of one system, one after the other.
std::vector<std::vector<SeedGroup>> by_system(const std::string& file) {
  std::vector<std::vector<SeedGroup>> systems;
  for (SeedGroup& group : seed_groups(file)) {
    if (systems.empty() || systems.back().front().id != group.id) systems.emplace_back();
    systems.back().push_back(std::move(group));
  }
  return systems;
}

}  // namespace

TEST_CASE("the policy text of every group reproduces it", "[golden]") {
  const std::string file =
      GENERATE("seeds-a.tiny-g1", "seeds-a.tiny-g2", "seeds-a.smollm2", "seeds-b.tiny-g2", "seeds-b.smollm2",
               "references-learned.hidden-g1", "references-learned.hidden-g2", "references-learned.hidden-g4",
               "references-decode.tiny-g1", "references-decode.tiny-g2", "references-decode.tiny-g4",
               "references-decode.smollm2", "references-decode.hidden-g1", "references-decode.hidden-g2",
               "references-decode.hidden-g4", "references-structure.tiny-g1", "references-structure.tiny-g2",
               "references-structure.tiny-g4");
  int compared = 0;
  for (const std::vector<SeedGroup>& system : by_system(file)) {
    const SeedGroup& first = system.front();
    CAPTURE(file, first.id, first.policy);
    SeedAgreement total;
    for (const SeedGroup& group : system) {
      try {
        total.add(compare_seed(group, tolerance));
      } catch (const std::exception& error) {
        FAIL_CHECK(group.path << ": " << error.what());
      }
    }
    print_line(first, total);
    CHECK(total.prompt.wrong_sets == 0);
    CHECK(total.prompt.largest_difference <= tolerance);
    CHECK(total.unequal == 0);
    CHECK(total.first_fault.empty());
    CHECK(total.prompt.equal_sets + total.prompt.tied_sets + total.rows > 0);
    ++compared;
  }
  if (file.starts_with("seeds-a")) CHECK(compared >= 8);
}

// Are kept sets ordered into chains from which every set can be read back, in as few chains as nesting allows?
#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "sim/replay/kept_chain.h"

namespace {

using namespace evictsim::sim;
using Heads = std::vector<std::vector<std::int32_t>>;

/// What a chain's levels say each of its points keeps.
std::map<std::size_t, Heads> read_back(const std::vector<KeptChain>& chains) {
  std::map<std::size_t, Heads> sets;
  for (const KeptChain& chain : chains) {
    for (std::size_t member = 0; member < chain.points.size(); ++member) {
      Heads& heads = sets[chain.points[member]];
      for (const auto& level : chain.level) {
        heads.emplace_back();
        for (std::size_t row = 0; row < level.size(); ++row) {
          if (level[row] <= member) heads.back().push_back(static_cast<std::int32_t>(row));
        }
      }
    }
  }
  return sets;
}

std::map<std::size_t, Heads> as_map(const std::vector<KeptSets>& sets) {
  std::map<std::size_t, Heads> map;
  for (const KeptSets& set : sets) map[set.point] = set.kept;
  return map;
}

std::vector<std::int32_t> first_of(const std::vector<std::int32_t>& order, std::size_t count) {
  std::vector<std::int32_t> rows(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count));
  std::sort(rows.begin(), rows.end());
  return rows;
}

}  // namespace

TEST_CASE("nested sets make one chain, smallest first") {
  std::mt19937_64 generator(1);
  const std::size_t heads = GENERATE(1U, 3U, 64U);
  std::vector<std::vector<std::int32_t>> orders(heads);
  for (auto& order : orders) {
    order.resize(30);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), generator);
  }
  std::vector<KeptSets> sets;
  for (const std::size_t count : {12U, 0U, 30U, 5U, 12U}) {  // also an empty, a full and two equal sets
    sets.push_back({.point = 10 + sets.size(), .kept = {}});
    for (const auto& order : orders) sets.back().kept.push_back(first_of(order, count));
  }
  const std::vector<KeptChain> chains = build_chains(sets, 30, 64);
  REQUIRE(chains.size() == 1);
  CHECK(chains[0].points == std::vector<std::size_t>{11, 13, 10, 14, 12});
  CHECK(read_back(chains) == as_map(sets));
}

TEST_CASE("sets that are not nested go to different chains") {
  const std::vector<KeptSets> sets = {{0, {{0, 1}, {0, 1}}},
                                      {1, {{0, 1, 2}, {0, 2, 3}}},     // lacks row 1 of head 1
                                      {2, {{0, 1, 2, 3}, {0, 1, 2}}},  // contains point 0, not point 1
                                      {3, {{0, 1, 2, 5}, {0, 2, 3, 4}}}};
  const std::vector<KeptChain> chains = build_chains(sets, 6, 64);
  CHECK(chains.size() == 2);
  CHECK(read_back(chains) == as_map(sets));
}

TEST_CASE("a head that trades entries for another's breaks the chain") {
  // More entries in all, but fewer in head 1: a split of one budget between heads may do this.
  const std::vector<KeptSets> sets = {{0, {{0}, {0, 1, 2}}}, {1, {{0, 1, 2, 3}, {0, 1}}}};
  const std::vector<KeptChain> chains = build_chains(sets, 4, 64);
  CHECK(chains.size() == 2);
  CHECK(read_back(chains) == as_map(sets));
}

TEST_CASE("chains are cut at the longest length") {
  std::vector<KeptSets> sets;
  for (std::int32_t count = 0; count < 7; ++count) {
    std::vector<std::int32_t> rows(static_cast<std::size_t>(count));
    std::iota(rows.begin(), rows.end(), 0);
    sets.push_back({static_cast<std::size_t>(count), {rows}});
  }
  const std::vector<KeptChain> chains = build_chains(sets, 7, 3);
  REQUIRE(chains.size() == 3);
  CHECK(chains[0].points.size() == 3);
  CHECK(chains[2].points.size() == 1);
  CHECK(read_back(chains) == as_map(sets));
}

TEST_CASE("any sets can be read back") {
  std::mt19937_64 generator(GENERATE(1U, 2U, 3U, 4U));
  std::vector<KeptSets> sets;
  for (std::size_t point = 0; point < 12; ++point) {
    sets.push_back({point, {}});
    for (int head = 0; head < 3; ++head) {
      sets.back().kept.emplace_back();
      for (std::int32_t row = 0; row < 9; ++row) {
        if (generator() % 12 >= point) sets.back().kept.back().push_back(row);
      }
    }
  }
  CHECK(read_back(build_chains(sets, 9, 4)) == as_map(sets));
  CHECK(build_chains({}, 9, 4).empty());
}

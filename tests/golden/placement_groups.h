#pragma once
/// \file
/// The groups of files that tests/golden/references/placements.py lays out.

#include <sstream>
#include <string>
#include <vector>

#include "tests/golden/agreement.h"
#include "tests/golden/trace_cache.h"

namespace evictsim::test {

/// One placement under one budget on one trace.
struct Group {
  std::string id, trace, policy, budget, hot;
  std::size_t entries = 0;
  std::vector<int> layers;
};

inline Group group_of(const H5File& golden, const std::string& id) {
  const auto attributes = golden.attributes("/" + id);
  Group group{.id = id, .trace = attributes.at("trace"), .policy = attributes.at("policy")};
  group.budget = attributes.at("budget");
  group.entries = std::stoul(attributes.at("entries"));
  if (attributes.contains("hot")) group.hot = attributes.at("hot");
  std::istringstream layers(attributes.contains("layers") ? attributes.at("layers") : "");
  for (int layer = 0; layers >> layer;) group.layers.push_back(layer);
  return group;
}

/// A slice of a dataset: element i of its first axis.
struct Slices {
  explicit Slices(H5Array read) : array(std::move(read)), size(array.values.size() / array.shape[0]) {}
  [[nodiscard]] std::vector<double> of(std::size_t index) const {
    const auto first = array.values.begin() + static_cast<std::ptrdiff_t>(index * size);
    return {first, first + static_cast<std::ptrdiff_t>(size)};
  }
  H5Array array;
  std::size_t size;
};

/// Leaves the `count` newest entries of every head hot.
inline void keep_newest(TraceCache& cache, std::size_t count) {
  for (auto& rows : cache.resident) rows.erase(rows.begin(), rows.end() - static_cast<std::ptrdiff_t>(count));
}

}  // namespace evictsim::test

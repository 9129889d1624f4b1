#pragma once
/// \file
/// Replacement policies as their papers describe them, written for obviousness: queues are vectors, first in first, and
/// everything is searched for. Independent of sim/memory.

#include <cstdint>
#include <string>
#include <vector>

namespace evictsim::tests {

struct SlowReference {
  int object = 0;
  std::uint64_t size = 1;
};

/// Which references hit. `policy` is a name of sim/memory with default parameters, or "clock(bits=2)" or
/// "s3fifo(fill=small)". `in_bytes`: objects differ in size, and the admission rules for that apply.
std::vector<bool> slow_hits(const std::string& policy, const std::vector<SlowReference>& references,
                            std::uint64_t capacity, bool in_bytes);

/// The most hits that any choice of victims reaches, by trying all; every object comes in, and all have size 1.
std::size_t most_hits(const std::vector<int>& references, std::size_t capacity);

}  // namespace evictsim::tests

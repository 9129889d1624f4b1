#pragma once
/// \file
/// Suggestions for misspelt names.

#include <string>
#include <string_view>
#include <vector>

namespace evictsim::policies {

/// Up to `count` of `known` nearest to `name` by edit distance (letters added, left out, replaced or swapped with their
/// neighbour, without regard to case), nearest first, equal distances in alphabetical order. A completion of `name`
/// ("alpha" to "alpha_safeguard") counts as distance 1. Names of several words ("h100-pcie" for "h100-80gb-pcie") are
/// also compared word by word, in any order; what is left of the known one counts nothing. The nearest is always among
/// them, others only within a third of the length of `name`.
std::vector<std::string> nearest_of(std::string_view name, const std::vector<std::string>& known, std::size_t count);

/// Of these, those that differ in at most two thirds of the letters of `name`: none for a name that is like nothing.
std::vector<std::string> near_to(std::string_view name, const std::vector<std::string>& known, std::size_t count);

/// "a, b, c".
std::string join(const std::vector<std::string>& words, std::string_view separator = ", ");

}  // namespace evictsim::policies

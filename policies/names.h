#pragma once
/// \file
/// Suggestions for misspelt names.

#include <string>
#include <string_view>
#include <vector>

namespace evictsim::policies {

/// Up to `count` of `known` nearest to `name` by edit distance (Levenshtein, without regard to case), nearest first,
/// equal distances in alphabetical order. A completion of `name` ("alpha" to "alpha_safeguard") counts as distance 1.
/// The nearest is always among them, others only within a third of the length of `name`.
std::vector<std::string> nearest_of(std::string_view name, const std::vector<std::string>& known, std::size_t count);

/// "a, b, c".
std::string join(const std::vector<std::string>& words, std::string_view separator = ", ");

}  // namespace evictsim::policies

#include "policies/names.h"

#include <algorithm>
#include <cctype>
#include <numeric>
#include <utility>

namespace evictsim::policies {
namespace {

char lower(char character) { return static_cast<char>(std::tolower(static_cast<unsigned char>(character))); }

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (lower(a[i]) == lower(b[j]) ? 0 : 1);
      diagonal = std::exchange(row[j + 1], std::min({replaced, row[j] + 1, row[j + 1] + 1}));
    }
  }
  return row.back();
}

constexpr std::size_t shortest_beginning = 3;  // letters that say which name is meant

std::size_t distance_of(std::string_view name, std::string_view candidate) {
  const std::size_t distance = edit_distance(name, candidate);
  const bool completes = name.size() >= shortest_beginning && name.size() < candidate.size() &&
                         edit_distance(name, candidate.substr(0, name.size())) == 0;
  return completes ? 1 : distance;
}

}  // namespace

std::vector<std::string> nearest_of(std::string_view name, const std::vector<std::string>& known, std::size_t count) {
  name = name.substr(0, 64);  // longer ones are no misspellings, and the distance is quadratic
  std::vector<std::pair<std::size_t, std::string>> ranked;
  ranked.reserve(known.size());
  for (const std::string& candidate : known) ranked.emplace_back(distance_of(name, candidate), candidate);
  std::sort(ranked.begin(), ranked.end());
  ranked.resize(std::min(count, ranked.size()));
  std::vector<std::string> nearest;
  for (auto& [distance, candidate] : ranked) {
    if (nearest.empty() || distance <= std::max<std::size_t>(1, name.size() / 3))
      nearest.push_back(std::move(candidate));
  }
  return nearest;
}

std::string join(const std::vector<std::string>& words, std::string_view separator) {
  std::string line;
  for (const std::string& word : words) {
    if (!line.empty()) line += separator;
    line += word;
  }
  return line;
}

}  // namespace evictsim::policies

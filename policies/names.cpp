#include "policies/names.h"

#include <algorithm>
#include <cctype>
#include <compare>
#include <numeric>
#include <utility>

namespace evictsim::policies {
namespace {

char lower(char character) { return static_cast<char>(std::tolower(static_cast<unsigned char>(character))); }

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1), row(b.size() + 1), next(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  const auto equal = [](char left, char right) { return lower(left) == lower(right); };
  for (std::size_t i = 0; i < a.size(); ++i) {
    next[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      next[j + 1] = std::min({row[j] + (equal(a[i], b[j]) ? 0 : 1), row[j + 1] + 1, next[j] + 1});
      const bool swapped = i > 0 && j > 0 && equal(a[i], b[j - 1]) && equal(a[i - 1], b[j]);
      if (swapped) next[j + 1] = std::min(next[j + 1], before[j - 1] + 1);
    }
    before.swap(row);
    row.swap(next);
  }
  return row.back();
}

constexpr std::size_t shortest_beginning = 3;  // letters that say which name is meant

/// Runs of letters and digits.
std::vector<std::string_view> words_of(std::string_view name) {
  std::vector<std::string_view> words;
  std::size_t begin = 0;
  for (std::size_t at = 0; at <= name.size(); ++at) {
    if (at < name.size() && std::isalnum(static_cast<unsigned char>(name[at])) != 0) continue;
    if (at > begin) words.push_back(name.substr(begin, at - begin));
    begin = at + 1;
  }
  return words;
}

std::size_t distance_by_words(std::string_view name, std::string_view candidate) {
  const std::vector<std::string_view> known = words_of(candidate);
  std::size_t sum = 0;
  for (const std::string_view word : words_of(name)) {
    std::size_t least = word.size();
    for (const std::string_view other : known) least = std::min(least, edit_distance(word, other));
    sum += least;
  }
  return sum;
}

struct Ranked {
  std::size_t distance = 0, letters = 0;  ///< that count; of the whole names
  std::string name;
  auto operator<=>(const Ranked&) const = default;
};

Ranked ranked(std::string_view name, const std::string& candidate) {
  const std::size_t letters = edit_distance(name, candidate);
  const bool completes = name.size() >= shortest_beginning && name.size() < candidate.size() &&
                         edit_distance(name, candidate.substr(0, name.size())) == 0;
  std::size_t distance = completes ? 1 : letters;
  // A word alone has to be one of the other's as it is.
  const std::size_t words = words_of(name).size();
  const std::size_t by_words = words > 0 ? distance_by_words(name, candidate) : letters;
  if (words > 1 || by_words == 0) distance = std::min(distance, by_words);
  return {distance, completes ? 1 : letters, candidate};
}

std::vector<Ranked> ranked_names(std::string_view name, const std::vector<std::string>& known, std::size_t count) {
  name = name.substr(0, 64);  // longer ones are no misspellings, and the distance is quadratic
  std::vector<Ranked> all;
  all.reserve(known.size());
  for (const std::string& candidate : known) all.push_back(ranked(name, candidate));
  std::sort(all.begin(), all.end());
  all.resize(std::min(count, all.size()));
  const auto far = [&](const Ranked& each) { return each.distance > std::max<std::size_t>(1, name.size() / 3); };
  if (all.size() > 1) all.erase(std::find_if(all.begin() + 1, all.end(), far), all.end());
  return all;
}

}  // namespace

std::vector<std::string> nearest_of(std::string_view name, const std::vector<std::string>& known, std::size_t count) {
  std::vector<std::string> names;
  for (Ranked& each : ranked_names(name, known, count)) names.push_back(std::move(each.name));
  return names;
}

std::vector<std::string> near_to(std::string_view name, const std::vector<std::string>& known, std::size_t count) {
  std::vector<std::string> names;
  for (Ranked& each : ranked_names(name, known, count)) {
    if (3 * each.distance <= 2 * name.size()) names.push_back(std::move(each.name));
  }
  return names;
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

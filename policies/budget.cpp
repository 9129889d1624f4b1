#include "policies/budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "traces/error.h"

namespace evictsim::policies {
namespace {

constexpr double fewest_entries = 2;  // below it a number is a share
constexpr double most_entries = 1e12;

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

/// The whole text as a finite double; NaN when it is none.
double number_of(std::string_view text) {
  double number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc() || end != text.data() + text.size() || !std::isfinite(number)) return std::nan("");
  return number;
}

}  // namespace

Budget::Budget(std::string text, double value, bool in_entries)
    : text_(std::move(text)), value_(value), in_entries_(in_entries) {}

Budget Budget::parse(std::string_view text) {
  const std::string_view number_text = trimmed(text);
  const double number = number_of(number_text);
  const bool in_entries = number >= fewest_entries;
  if (!(number > 0) || (in_entries && (number > most_entries || number != std::trunc(number)))) {
    throw Error(
        ErrorCode::invalid_argument,
        "must be a share of the prompt kept, above 0 and below 2 (0.2; 1 keeps all), or a whole number of entries, "
        "2 .. 1e12 (512)",
        {.parameter = "budget", .value = std::string(text)});
  }
  return {std::string(number_text), number, in_entries};
}

Budget Budget::from_compression_ratio(std::string_view ratio) {
  const std::string_view number_text = trimmed(ratio);
  const double removed = number_of(number_text);
  if (!(removed >= 0 && removed < 1)) {
    throw Error(ErrorCode::invalid_argument, "must be a share removed, 0 <= ratio < 1",
                {.parameter = "compression ratio", .value = std::string(ratio)});
  }
  const double kept = 1.0 - removed;
  char buffer[64];
  const auto [end, failure] = std::to_chars(buffer, buffer + sizeof buffer, kept);
  return {std::string(buffer, end), kept, false};
}

std::int64_t Budget::entries(std::int64_t prompt_length) const {
  if (in_entries_) return static_cast<std::int64_t>(value_);
  // Truncation is kvpress' rule: 10 entries at 1 - 0.7 are int(3.0000000000000004) = 3, 0.1 of 9 would be none.
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(static_cast<double>(prompt_length) * value_));
}

}  // namespace evictsim::policies

#include "traces/capture/sink/text_fields.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>

namespace evictsim::traces::capture {
namespace {

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const auto end = text.find(separator);
    parts.push_back(trimmed(text.substr(0, end)));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

template <typename Number>
bool parse(std::string_view text, Number& number) {
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  return failure == std::errc{} && end == text.data() + text.size();
}

}  // namespace

Error TextField::wrong(const std::string& rule) const {
  return {ErrorCode::invalid_argument, rule, {.file = {}, .dataset = {}, .parameter = name, .value = value}};
}

std::int64_t TextField::integer(std::int64_t least, std::int64_t most) const {
  std::int64_t number = 0;
  if (!parse(value, number) || number < least || number > most) {
    throw wrong(fmt::format("must be a whole number between {} and {}", least, most));
  }
  return number;
}

double TextField::real() const {
  double number = 0;
  if (!parse(value, number) || !std::isfinite(number)) throw wrong("must be a finite number");
  return number;
}

bool TextField::flag() const {
  if (value != "0" && value != "1") throw wrong("must be 0 or 1");
  return value == "1";
}

std::vector<double> TextField::reals() const {
  std::vector<double> numbers;
  for (const std::string_view part : split(value, ',')) {
    double number = 0;
    if (!parse(part, number) || !std::isfinite(number)) throw wrong("must be finite numbers with commas between them");
    numbers.push_back(number);
  }
  return numbers;
}

std::vector<int> TextField::indices() const {
  constexpr int most = 1 << 20;
  std::vector<int> numbers;
  for (const std::string_view part : split(value, ',')) {
    const auto dash = part.find('-');
    int first = 0, last = 0;
    const bool valid = dash == std::string_view::npos
                           ? parse(part, first) && parse(part, last)
                           : parse(part.substr(0, dash), first) && parse(part.substr(dash + 1), last);
    if (!valid || first < 0 || last < first || last > most || (!numbers.empty() && first <= numbers.back())) {
      throw wrong("must be ascending whole numbers and ranges with commas between them, such as 0,4-7");
    }
    for (int number = first; number <= last; ++number) numbers.push_back(number);
  }
  return numbers;
}

std::uint64_t TextField::bytes() const {
  std::string_view number = value;
  int shift = 0;
  for (const auto& [unit, bits] : {std::pair<std::string_view, int>{"KiB", 10}, {"MiB", 20}, {"GiB", 30}}) {
    if (!number.ends_with(unit)) continue;
    number = trimmed(number.substr(0, number.size() - unit.size()));
    shift = bits;
    break;
  }
  std::uint64_t count = 0;
  if (!parse(number, count) || count > (std::uint64_t{1} << 50) >> shift) {
    throw wrong("must be a number of bytes, such as 1048576, 512MiB or 4GiB");
  }
  return count << shift;
}

std::vector<TextField> parse_fields(const char* text) {
  std::vector<TextField> fields;
  if (text == nullptr) return fields;
  for (const std::string_view line : split(text, '\n')) {
    if (line.empty()) continue;
    const auto sign = line.find('=');
    if (sign == std::string_view::npos || sign == 0) {
      throw Error(ErrorCode::invalid_argument, "must be lines of the form name=value",
                  {.file = {}, .dataset = {}, .parameter = {}, .value = std::string(line)});
    }
    fields.push_back({std::string(trimmed(line.substr(0, sign))), std::string(trimmed(line.substr(sign + 1)))});
  }
  return fields;
}

}  // namespace evictsim::traces::capture

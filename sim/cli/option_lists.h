#pragma once
/// \file
/// Values of options that take lists: split, read, looked up. Errors name the option and say what would be right.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <memory>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "models/data_files.h"
#include "policies/names.h"
#include "traces/error.h"

namespace evictsim {

/// The elements of an option's lists, one list for each mention. Throws Error(invalid_argument) for empty elements.
std::vector<std::string> list_elements(const std::vector<std::string>& lists, const char* option);

/// "; nearest: a, b" of those that are near; else nothing.
std::string nearest_text(const std::string& name, const std::vector<std::string>& known, std::size_t count);

/// Throws Error(invalid_argument) for what is no number, or one out of range.
template <typename Number>
Number number_of(const std::string& text, const char* option, Number least, Number most) {
  Number value{};
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc{} || end != text.data() + text.size() || !(value >= least && value <= most)) {
    const char* const kind = std::is_integral_v<Number> ? "whole number" : "number";
    throw Error(ErrorCode::invalid_argument,
                most == std::numeric_limits<Number>::max()
                    ? fmt::format("expected a {}", kind)
                    : fmt::format("expected a {} from {} to {}", kind, least, most),
                {.parameter = option, .value = text});
  }
  return value;
}

/// Throws Error(unknown_name), naming all of `values`.
template <typename Value, std::size_t count>
Value one_of(const std::string& text, const char* option,
             const std::array<std::pair<const char*, Value>, count>& values) {
  std::vector<std::string> names;
  for (const auto& [name, value] : values) {
    if (text == name) return value;
    names.emplace_back(name);
  }
  throw Error(ErrorCode::unknown_name,
              fmt::format("expected one of {}{}", policies::join(names), nearest_text(text, names, 1)),
              {.parameter = option, .value = text});
}

/// `find(name)`; a name that does not exist is answered with the nearest ones of data files of that kind. `listing` is
/// the option of `evictsim plan` that lists them.
template <typename Find>
auto found_data(const std::string& name, const char* option, const char* kind, const char* listing, Find find) {
  try {
    return std::make_shared<const decltype(find(name))>(find(name));
  } catch (const Error& problem) {
    const std::vector<std::string> known = models::data_names(kind);
    const bool is_path = name.ends_with(".json") || name.starts_with('/') || name.starts_with('.');
    // A version of an engine that exists is a matter of its own.
    const std::string stem = name.substr(0, name.find(':'));
    const bool exists = std::find(known.begin(), known.end(), stem) != known.end();
    if (problem.code() != ErrorCode::unknown_name || known.empty() || exists || !problem.context().file.empty()) throw;
    throw Error(ErrorCode::unknown_name,
                fmt::format("no such name{}; `evictsim plan {}` lists them{}",
                            nearest_text(name.substr(name.rfind('/') + 1), known, 3), listing,
                            is_path ? "" : ", or name a .json file"),
                {.parameter = option, .value = name});
  }
}

}  // namespace evictsim

#include "policies/parameters.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "policies/call.h"
#include "policies/names.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

constexpr const char* automatic_word = "auto";

template <typename Number>
std::optional<Number> number_of(std::string_view text) {
  Number number{};
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

template <typename Number>
std::string shortest(Number number) {
  char buffer[64];
  const auto [end, failure] = std::to_chars(buffer, buffer + sizeof buffer, number);
  return {buffer, end};
}

bool in_range(const ParameterSpec& spec, double number) {
  return (!spec.minimum || number >= *spec.minimum) && (!spec.maximum || number <= *spec.maximum);
}

/// The canonical text of `given`, or nothing when it breaks the declaration.
std::optional<std::string> canonical(const ParameterSpec& spec, const std::string& given) {
  switch (spec.type) {
    case ParameterType::integer: {
      if (spec.automatic && given == automatic_word) return given;
      const auto number = number_of<std::int64_t>(given);
      if (!number || !in_range(spec, static_cast<double>(*number)) || (spec.odd && *number % 2 == 0)) return {};
      return shortest(*number);
    }
    case ParameterType::real: {
      if (spec.automatic && given == automatic_word) return given;
      const auto number = number_of<double>(given);
      if (!number || !std::isfinite(*number) || !in_range(spec, *number)) return {};
      return shortest(*number == 0 ? 0.0 : *number);
    }
    case ParameterType::boolean:
      if (given != "true" && given != "false") return {};
      return given;
    case ParameterType::choice:
      if (std::find(spec.choices.begin(), spec.choices.end(), given) == spec.choices.end()) return {};
      return given;
    case ParameterType::text:
      return given;
  }
  return {};
}

std::string bounds(const ParameterSpec& spec) {
  const auto text = [&](double bound) {
    return spec.type == ParameterType::integer ? shortest(static_cast<std::int64_t>(bound)) : shortest(bound);
  };
  if (spec.minimum && spec.maximum) return fmt::format(", {} .. {}", text(*spec.minimum), text(*spec.maximum));
  if (spec.minimum) return fmt::format(", {} or more", text(*spec.minimum));
  if (spec.maximum) return fmt::format(", {} or less", text(*spec.maximum));
  return {};
}

}  // namespace

std::string ParameterSpec::range() const {
  switch (type) {
    case ParameterType::integer:
      return fmt::format("{}integer{}{}", odd ? "odd " : "", bounds(*this), automatic ? ", or auto" : "");
    case ParameterType::real:
      return fmt::format("number{}{}", bounds(*this), automatic ? ", or auto" : "");
    case ParameterType::boolean:
      return "true | false";
    case ParameterType::choice:
      return join(choices, " | ");
    case ParameterType::text:
      return "text";
  }
  return {};
}

ParameterSpec integer_parameter(std::string name, std::string default_value, double minimum, double maximum,
                                std::string help) {
  return {.name = std::move(name),
          .type = ParameterType::integer,
          .default_value = std::move(default_value),
          .help = std::move(help),
          .minimum = minimum,
          .maximum = maximum};
}

ParameterSpec real_parameter(std::string name, std::string default_value, double minimum, double maximum,
                             std::string help) {
  return {.name = std::move(name),
          .type = ParameterType::real,
          .default_value = std::move(default_value),
          .help = std::move(help),
          .minimum = minimum,
          .maximum = maximum};
}

ParameterSpec boolean_parameter(std::string name, std::string default_value, std::string help) {
  return {.name = std::move(name),
          .type = ParameterType::boolean,
          .default_value = std::move(default_value),
          .help = std::move(help)};
}

ParameterSpec or_auto(ParameterSpec spec) {
  spec.automatic = true;
  return spec;
}

ParameterSpec choice_parameter(std::string name, std::vector<std::string> choices, std::string help) {
  std::string first = choices.front();
  return {.name = std::move(name),
          .type = ParameterType::choice,
          .default_value = std::move(first),
          .help = std::move(help),
          .choices = std::move(choices)};
}

ParameterSpec text_parameter(std::string name, std::string help) {
  return {.name = std::move(name), .type = ParameterType::text, .help = std::move(help)};
}

Parameters::Parameters(std::string_view part, const std::vector<ParameterSpec>& specs,
                       const std::map<std::string, std::string>& given) {
  for (const auto& [name, text] : given) {
    const auto is_wanted = [&name = name](const ParameterSpec& spec) { return spec.name == name; };
    if (std::any_of(specs.begin(), specs.end(), is_wanted)) continue;
    if (specs.empty()) {
      throw Error(ErrorCode::unknown_name, fmt::format("{} takes no parameters", part), {.parameter = name});
    }
    std::vector<std::string> names;
    for (const ParameterSpec& spec : specs) names.push_back(spec.name);
    throw Error(ErrorCode::unknown_name,
                fmt::format("{} has no such parameter; did you mean {}? It takes {}", part,
                            nearest_of(name, names, 1).front(), join(names)),
                {.parameter = name});
  }
  for (const ParameterSpec& spec : specs) {
    const auto found = given.find(spec.name);
    const std::string& text = found == given.end() ? spec.default_value : found->second;
    std::optional<std::string> value = canonical(spec, text);
    if (!value && found == given.end()) {
      throw std::logic_error(fmt::format("default {} of {}({}) breaks its own range", text, part, spec.name));
    }
    if (!value) {
      throw Error(ErrorCode::invalid_argument, "must be " + spec.range(),
                  {.parameter = fmt::format("{}: {}", part, spec.name), .value = text});
    }
    values_.push_back({spec.name, spec.type, std::move(*value)});
  }
}

const Parameters::Value& Parameters::find(std::string_view name) const {
  const auto found =
      std::find_if(values_.begin(), values_.end(), [&](const Value& value) { return value.name == name; });
  if (found == values_.end()) throw std::logic_error(fmt::format("undeclared parameter '{}'", name));
  return *found;
}

const Parameters::Value& Parameters::find(std::string_view name, ParameterType type) const {
  const Value& value = find(name);
  if (value.type != type) throw std::logic_error(fmt::format("parameter '{}' has another type", name));
  return value;
}

std::int64_t Parameters::integer(std::string_view name) const {
  const auto value = optional_integer(name);
  if (!value) throw std::logic_error(fmt::format("parameter '{}' may be auto: ask optional_integer", name));
  return *value;
}

std::optional<std::int64_t> Parameters::optional_integer(std::string_view name) const {
  return number_of<std::int64_t>(find(name, ParameterType::integer).text);
}

double Parameters::real(std::string_view name) const {
  const auto value = optional_real(name);
  if (!value) throw std::logic_error(fmt::format("parameter '{}' may be auto: ask optional_real", name));
  return *value;
}

std::optional<double> Parameters::optional_real(std::string_view name) const {
  return number_of<double>(find(name, ParameterType::real).text);
}

bool Parameters::boolean(std::string_view name) const { return find(name, ParameterType::boolean).text == "true"; }

const std::string& Parameters::choice(std::string_view name) const { return find(name, ParameterType::choice).text; }

const std::string& Parameters::words(std::string_view name) const { return find(name, ParameterType::text).text; }

std::string Parameters::word(std::string_view name) const {
  const Value& value = find(name);
  return value.type == ParameterType::text ? quote_word(value.text) : value.text;
}

std::string Parameters::text() const {
  std::vector<std::string> names;
  for (const Value& value : values_) names.push_back(value.name);
  return text(names);
}

std::string Parameters::text(const std::vector<std::string>& names) const {
  std::vector<std::string> pairs;
  for (const std::string& name : names) pairs.push_back(name + "=" + word(name));
  return join(pairs, ",");
}

}  // namespace evictsim::policies

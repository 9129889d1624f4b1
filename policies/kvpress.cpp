#include "policies/kvpress.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <optional>
#include <stdexcept>
#include <utility>

#include "policies/budget.h"
#include "policies/call.h"
#include "policies/names.h"
#include "policies/press.h"
#include "policies/registry.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

template <typename Number>
std::optional<Number> read_number(const std::string& text) {
  Number number{};
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

/// Function-local, so that it exists before the first PressRegistration of any file runs.
std::map<std::string, Press, std::less<>>& table() {
  static std::map<std::string, Press, std::less<>> presses;
  return presses;
}

/// A class of kvpress 0.5.5 that cannot be mapped, and why.
struct Unmapped {
  std::string_view name;
  const char* reason;
};

constexpr std::array unmapped_presses = {
    Unmapped{"KVgradPress", "it scores by gradients of the model's last hidden states, which a trace does not hold"},
    Unmapped{"RestoreKVPress",
             "it adds tokens that a fine-tuned copy of the model computes from the whole cache, which a trace does not "
             "hold; KVzipPress is what it evicts by"}};

const Unmapped* unmapped(std::string_view name) {
  const auto* found = std::find_if(unmapped_presses.begin(), unmapped_presses.end(),
                                   [&](const Unmapped& press) { return press.name == name; });
  return found == unmapped_presses.end() ? nullptr : found;
}

const Press& find_press(const std::string& name) {
  const auto found = table().find(name);
  if (found != table().end()) return found->second;
  if (const Unmapped* press = unmapped(name)) {
    throw Error(ErrorCode::unsupported, std::string("this press has no counterpart here: ") + press->reason,
                {.parameter = "kvpress", .value = name});
  }
  throw Error(ErrorCode::unknown_name,
              fmt::format("kvpress has no such press; nearest: {}; mapped are {}",
                          nearest_of(name, mapped_presses(), 1).front(), join(mapped_presses())),
              {.parameter = "kvpress", .value = name});
}

/// A Python number without the underscores that may stand between its digits.
std::string plain_number(const std::string& literal) {
  const auto is_digit = [](char character) { return character >= '0' && character <= '9'; };
  std::string plain;
  for (std::size_t i = 0; i < literal.size(); ++i) {
    const bool separates =
        literal[i] == '_' && i > 0 && i + 1 < literal.size() && is_digit(literal[i - 1]) && is_digit(literal[i + 1]);
    if (!separates) plain += literal[i];
  }
  return plain;
}

/// Runs `check`; its error names `argument` of `press` in place of our parameter.
template <typename Check>
auto as_argument(const char* press, const char* argument, const Check& check) {
  try {
    return check();
  } catch (const Error& error) {
    throw Error(error.code(), error.message(),
                {.parameter = fmt::format("{}: {}", press, argument), .value = error.context().value});
  }
}

/// Throws unless our counterpart of the argument takes `value`.
void check_range(const Press& press, const PressArgument& argument, const std::string& value) {
  if (argument.counterpart == nullptr || value.empty()) return;
  const std::string name = argument.counterpart;
  std::vector<ParameterSpec> specs = find_part(press.part).parameters;
  std::erase_if(specs, [&](const ParameterSpec& spec) { return spec.name != name; });
  as_argument(press.name, argument.name, [&] { return Parameters(press.part, specs, {{name, value}}); });
}

/// What a value must be, as errors say it.
const char* expected_of(PressValue kind) {
  switch (kind) {
    case PressValue::integer:
      return "must be an integer";
    case PressValue::number:
      return "must be a number";
    case PressValue::boolean:
      return "must be True or False";
    case PressValue::text:
      return "must be a word or quoted text";
    case PressValue::optional_integer:
      return "must be an integer or None";
    case PressValue::optional_number:
      return "must be a number or None";
    case PressValue::press:
      return "must be a press such as KnormPress()";
    case PressValue::optional_press:
      return "must be a press such as KnormPress(), or None";
    case PressValue::presses:
      return "must be a list of presses such as [KnormPress(0.5), ThinKPress(0.5)]";
    case PressValue::numbers:
      return "must be a list of numbers such as [0.5, 0.25]";
  }
  return "";
}

[[noreturn]] void refuse_value(const Press& press, const PressArgument& argument, const Call& value) {
  throw Error(ErrorCode::invalid_argument, expected_of(argument.kind),
              {.parameter = fmt::format("{}: {}", press.name, argument.name), .value = value.name});
}

/// A Python literal in our notation.
std::string value_of(const Press& press, const PressArgument& argument, const Call& value) {
  if (argument.kind == PressValue::text && !value.called) return value.name;
  if (!value.called && !value.quoted) {
    switch (argument.kind) {
      case PressValue::boolean:
        if (value.name == "True") return "true";
        if (value.name == "False") return "false";
        break;
      case PressValue::optional_integer:
        if (value.name == "None") return "0";
        [[fallthrough]];
      case PressValue::integer:
        if (std::string number = plain_number(value.name); read_number<std::int64_t>(number)) return number;
        break;
      case PressValue::optional_number:
        if (value.name == "None") return {};
        [[fallthrough]];
      case PressValue::number:
        if (std::string number = plain_number(value.name); read_number<double>(number)) return number;
        break;
      case PressValue::optional_press:
        if (value.name == "None") return {};
        break;
      case PressValue::text:
      case PressValue::press:
      case PressValue::presses:
      case PressValue::numbers:
        break;
    }
  }
  refuse_value(press, argument, value);
}

PolicyText map_press(const Call& call);

/// A Python list's items; lists were rewritten as calls of this name.
constexpr std::string_view list_name = "list";

void read_list(const Press& press, const PressArgument& argument, const Call& value, PressArguments& read) {
  std::vector<std::string> numbers;
  for (const Argument& item : value.arguments) {
    if (argument.kind == PressValue::presses && item.value.called) {
      read.presses.push_back(map_press(item.value));
    } else if (argument.kind == PressValue::numbers && !item.value.called &&
               read_number<double>(plain_number(item.value.name))) {
      numbers.push_back(plain_number(item.value.name));
    } else {
      refuse_value(press, argument, item.value);
    }
  }
  if (value.arguments.empty()) refuse_value(press, argument, value);
  read.values[argument.name] = join(numbers, " ");
}

PressArguments read_arguments(const Press& press, const Call& call) {
  PressArguments read;
  std::vector<bool> given(press.arguments.size(), false);
  const auto set = [&](std::size_t place, const Call& value) {
    const PressArgument& argument = press.arguments[place];
    if (given[place]) {
      throw Error(ErrorCode::invalid_argument, "is given twice",
                  {.parameter = fmt::format("{}: {}", press.name, argument.name)});
    }
    given[place] = true;
    const bool takes_press = argument.kind == PressValue::press || argument.kind == PressValue::optional_press;
    const bool takes_list = argument.kind == PressValue::presses || argument.kind == PressValue::numbers;
    if (takes_press && value.called) {
      read.press = map_press(value);
      read.presses_by[argument.name] = *read.press;
    } else if (takes_list && value.called && value.name == list_name) {
      read_list(press, argument, value, read);
    } else if (argument.name == std::string_view(compression_ratio_argument.name)) {
      read.compression_ratio = value_of(press, argument, value);
    } else {
      const std::string text = value_of(press, argument, value);
      check_range(press, argument, text);
      read.values[argument.name] = text;
    }
  };
  for (std::size_t i = 0; i < call.arguments.size(); ++i) {
    const Argument& argument = call.arguments[i];
    std::size_t place = i;
    if (!argument.key.empty()) {
      const auto found = std::find_if(press.arguments.begin(), press.arguments.end(),
                                      [&](const PressArgument& known) { return known.name == argument.key; });
      place = static_cast<std::size_t>(found - press.arguments.begin());
    }
    if (place >= press.arguments.size()) {
      std::vector<std::string> names;
      for (const PressArgument& known : press.arguments) names.emplace_back(known.name);
      if (argument.key.empty()) {
        throw Error(ErrorCode::unknown_name, fmt::format("too many arguments; it takes {}", join(names)),
                    {.parameter = press.name, .value = argument.value.name});
      }
      throw Error(ErrorCode::unknown_name,
                  fmt::format("no such argument; did you mean {}? It takes {}",
                              nearest_of(argument.key, names, 1).front(), join(names)),
                  {.parameter = fmt::format("{}: {}", press.name, argument.key)});
    }
    set(place, argument.value);
  }
  for (std::size_t place = 0; place < press.arguments.size(); ++place) {
    const PressArgument& argument = press.arguments[place];
    if (given[place] || argument.name == std::string_view(compression_ratio_argument.name)) continue;
    if (argument.default_value == nullptr) {
      throw Error(ErrorCode::invalid_argument, "must be given",
                  {.parameter = fmt::format("{}: {}", press.name, argument.name)});
    }
    set(place, Call{.name = argument.default_value});
  }
  return read;
}

/// Python's lists as calls, [a, b] as list(a, b): all that the grammar of policies lacks.
std::string lists_as_calls(std::string_view text) {
  std::string rewritten;
  char quote = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char character = text[i];
    if (quote != 0) {
      if (character == '\\' && i + 1 < text.size()) rewritten += text[i++];
      if (text[i] == quote && character == quote) quote = 0;
      rewritten += text[i];
      continue;
    }
    if (character == '\'' || character == '"') quote = character;
    if (character == '[') {
      rewritten.append(list_name).append("(");
    } else {
      rewritten += character == ']' ? ')' : character;
    }
  }
  return rewritten;
}

PolicyText map_press(const Call& call) {
  const Press& press = find_press(call.name);
  const PressArguments arguments = read_arguments(press, call);
  PolicyText text = press.map(arguments);
  text.press = press.name;
  if (arguments.compression_ratio) {
    text.budget = as_argument(press.name, compression_ratio_argument.name,
                              [&] { return Budget::from_compression_ratio(*arguments.compression_ratio).text(); });
  }
  return text;
}

}  // namespace

std::string PolicyText::text() const {
  std::vector<std::string> all = arguments;
  if (!schedule.empty()) all.push_back("schedule=" + schedule);
  if (!budget.empty()) all.push_back("budget=" + budget);
  return fmt::format("{}({})", name, join(all, ","));
}

const std::string& PressArguments::operator[](const char* name) const { return values.find(name)->second; }

PressRegistration::PressRegistration(const Press& press) {
  if (!table().try_emplace(press.name, press).second) {
    refuse_registration(fmt::format("the press {} is registered twice", press.name));
  }
}

PolicyText scores_of_press(const PressArguments& given, const char* wrapper) {
  if (!given.press->scores) {
    throw Error(ErrorCode::invalid_argument,
                fmt::format("{} wraps a press that scores, not {}", wrapper, given.press->press),
                {.parameter = wrapper});
  }
  PolicyText scores = *given.press;
  if (scores.counts) scores.arguments.emplace_back("allocator=uniform()");
  return scores;
}

PolicyText cut_while_decoding(const PressArguments& given, const char* wrapper) {
  PolicyText text = *given.press;
  if (!text.scores && text.press != "AdaKVPress") {
    throw Error(ErrorCode::invalid_argument, fmt::format("{} wraps a press that scores, or AdaKVPress", wrapper),
                {.parameter = wrapper});
  }
  if (text.counts) {
    throw Error(ErrorCode::unsupported,
                fmt::format("inside {} its counts follow kvpress' buffer of hidden states, not the cache; use "
                            "SnapKVPress",
                            wrapper),
                {.parameter = text.press});
  }
  text.schedule = fmt::format("every(steps={},prompt=false)", given["compression_interval"]);
  text.scores = false;
  return text;
}

PolicyText cut_to_target(const PressArguments& given, const char* wrapper) {
  // A budget in entries below 2 would read as a share.
  constexpr std::int64_t fewest_target = 2;
  constexpr std::int64_t most_target = 1'000'000'000'000;
  PolicyText text = cut_while_decoding(given, wrapper);
  const std::int64_t target = std::stoll(given["target_size"]);
  if (target < fewest_target || target > most_target) {
    throw Error(ErrorCode::invalid_argument, fmt::format("must be integer, {} .. {}", fewest_target, most_target),
                {.parameter = fmt::format("{}: target_size", wrapper), .value = given["target_size"]});
  }
  text.budget = given["target_size"];
  return text;
}

std::string press_to_policy(std::string_view text) {
  const Call call = parse_call(lists_as_calls(text), TrailingComma::allowed);
  const Press& press = find_press(call.name);
  if (!call.called) {
    throw Error(ErrorCode::invalid_argument, fmt::format("a press is written as a call: {}()", press.name),
                {.parameter = "kvpress", .value = std::string(text)});
  }
  return map_press(call).text();
}

std::string press_named(std::string_view name) {
  constexpr std::string_view module = "kvpress.";
  if (name.starts_with(module)) name.remove_prefix(module.size());
  return table().contains(name) || unmapped(name) != nullptr ? std::string(name) : std::string();
}

std::vector<std::string> mapped_presses() {
  std::vector<std::string> names;
  for (const auto& [name, press] : table()) names.push_back(name);
  return names;
}

}  // namespace evictsim::policies

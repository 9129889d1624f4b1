#include "policies/kvpress.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <map>
#include <optional>
#include <utility>

#include "policies/budget.h"
#include "policies/call.h"
#include "policies/names.h"
#include "policies/registry.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

constexpr std::int64_t fewest_target = 2;  // 1 is a share here
constexpr std::int64_t most_target = 1'000'000'000'000;

template <typename Number>
std::optional<Number> read_number(const std::string& text) {
  Number number{};
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

/// A policy call under construction.
struct PolicyText {
  std::string name;
  std::vector<std::string> arguments;
  std::string schedule;
  std::string budget;
  std::string press;  ///< class it comes from

  [[nodiscard]] std::string text() const {
    std::vector<std::string> all = arguments;
    if (!schedule.empty()) all.push_back("schedule=" + schedule);
    if (!budget.empty()) all.push_back("budget=" + budget);
    return fmt::format("{}({})", name, join(all, ","));
  }
};

enum class ValueKind { integer, number, boolean, optional_integer, press };

struct PressArgument {
  const char* name;
  ValueKind kind;
  const char* default_value;          ///< as Python writes it; nullptr: must be given
  const char* counterpart = nullptr;  ///< our parameter, whose range holds; nullptr: none
};

/// The arguments of one press, all set, in our notation.
struct PressArguments {
  std::map<std::string, std::string, std::less<>> values;
  std::optional<PolicyText> press;
  std::optional<std::string> compression_ratio;  ///< where given

  [[nodiscard]] const std::string& operator[](const char* name) const { return values.find(name)->second; }
};

struct Press {
  const char* name;
  const char* part;  ///< of ours, which has the counterparts
  std::vector<PressArgument> arguments;
  std::function<PolicyText(const PressArguments&)> map;
};

constexpr PressArgument ratio = {"compression_ratio", ValueKind::number, "0.0"};
constexpr const char* decoding_press = "DecodingPress";
constexpr const char* adakv_press = "AdaKVPress";
constexpr const char* pyramid_press = "PyramidKVPress";

PolicyText map_snapkv(const char* policy, const PressArguments& given) {
  return {.name = policy,
          .arguments = {"variant=library", "window=" + given["window_size"], "kernel=" + given["kernel_size"],
                        "pool=avg", "group=mean"}};
}

PolicyText map_pyramid(const PressArguments& given) {
  PolicyText text = map_snapkv("pyramidkv", given);
  text.arguments.push_back("beta=" + given["beta"]);
  return text;
}

PolicyText map_adakv(const PressArguments& given) {
  PolicyText inner = *given.press;
  if (inner.press == adakv_press || inner.press == decoding_press) {
    throw Error(ErrorCode::invalid_argument, "AdaKVPress wraps a press that scores, not " + inner.press,
                {.parameter = adakv_press});
  }
  // AdaKVPress takes the scores of its press and counts by itself: a pyramid inside it has no effect there.
  if (inner.press == pyramid_press) inner.arguments.emplace_back("allocator=uniform()");
  return {.name = "adakv",
          .arguments = {inner.text(), "variant=library", "alpha=" + given["alpha_safeguard"], "normalize=false"}};
}

PolicyText map_decoding(const PressArguments& given) {
  PolicyText text = *given.press;
  if (text.press == decoding_press) {
    throw Error(ErrorCode::invalid_argument, "DecodingPress wraps a press that scores, or AdaKVPress",
                {.parameter = decoding_press});
  }
  if (text.press == pyramid_press) {
    throw Error(ErrorCode::unsupported,
                "inside DecodingPress its counts follow kvpress' buffer of hidden states, not the cache; use "
                "SnapKVPress",
                {.parameter = pyramid_press});
  }
  text.schedule = fmt::format("every(steps={},prompt=false)", given["compression_interval"]);
  text.budget = given["target_size"];
  const auto target = read_number<std::int64_t>(text.budget);
  if (!target || *target < fewest_target || *target > most_target) {
    throw Error(ErrorCode::invalid_argument, fmt::format("must be integer, {} .. {}", fewest_target, most_target),
                {.parameter = fmt::format("{}: target_size", decoding_press), .value = text.budget});
  }
  return text;
}

const std::vector<Press>& presses() {
  using enum ValueKind;
  static const std::vector<Press> table = {
      {adakv_press, "adakv", {{"press", press, nullptr}, {"alpha_safeguard", number, "0.20", "alpha"}}, map_adakv},
      {decoding_press,
       "every",
       {{"base_press", press, nullptr},
        {"compression_interval", integer, "512", "steps"},
        {"target_size", integer, "2048"},
        // How many hidden states kvpress keeps for scoring while decoding; here every query seen is at hand.
        {"hidden_states_buffer_size", integer, "256"}},
       map_decoding},
      {"ExpectedAttentionPress",
       "expected_attention",
       {ratio,
        {"n_future_positions", integer, "512", "future"},
        {"n_sink", integer, "4", "sinks"},
        {"use_covariance", boolean, "True"},
        {"use_vnorm", boolean, "True"},
        {"epsilon", number, "0.0", "epsilon"}},
       [](const PressArguments& given) -> PolicyText {
         return {.name = "expected_attention",
                 .arguments = {"future=" + given["n_future_positions"], "sinks=" + given["n_sink"],
                               "covariance=" + given["use_covariance"], "value_norm=" + given["use_vnorm"],
                               "epsilon=" + given["epsilon"]}};
       }},
      {"KeyDiffPress", "keydiff", {ratio}, [](const PressArguments&) -> PolicyText { return {.name = "keydiff"}; }},
      {"KnormPress", "knorm", {ratio}, [](const PressArguments&) -> PolicyText { return {.name = "knorm"}; }},
      {"LagKVPress",
       "lagkv",
       {ratio,
        {"n_sink", integer, "4", "sinks"},
        {"lag_size", integer, "128", "lag"},
        {"cross_scoring", boolean, "False"}},
       [](const PressArguments& given) -> PolicyText {
         return {
             .name = "lagkv",
             .arguments = {"sinks=" + given["n_sink"], "lag=" + given["lag_size"], "cross=" + given["cross_scoring"]}};
       }},
      {"ObservedAttentionPress",
       "observed_attention",
       {ratio, {"output_attentions", boolean, "False"}},
       [](const PressArguments&) -> PolicyText { return {.name = "observed_attention"}; }},
      {pyramid_press,
       "pyramidkv",
       {ratio,
        {"window_size", integer, "64", "window"},
        {"kernel_size", integer, "5", "kernel"},
        {"beta", integer, "20", "beta"}},
       map_pyramid},
      {"RandomPress",
       "random",
       {ratio, {"seed", optional_integer, "None", "seed"}},
       [](const PressArguments& given) -> PolicyText {
         return {.name = "random", .arguments = {"seed=" + given["seed"]}};
       }},
      {"SnapKVPress",
       "snapkv",
       {ratio, {"window_size", integer, "64", "window"}, {"kernel_size", integer, "5", "kernel"}},
       [](const PressArguments& given) { return map_snapkv("snapkv", given); }},
      {"StreamingLLMPress",
       "streaming_llm",
       {ratio, {"n_sink", integer, "4", "sinks"}},
       [](const PressArguments& given) -> PolicyText {
         return {.name = "streaming_llm", .arguments = {"variant=library", "sinks=" + given["n_sink"]}};
       }},
      {"TOVAPress", "tova", {ratio}, [](const PressArguments&) -> PolicyText {
         return {.name = "tova", .arguments = {"variant=library"}};
       }}};
  return table;
}

/// Presses of kvpress 0.5.5 that have no counterpart here.
constexpr std::array unmapped_presses = {"BlockPress",
                                         "CAMPress",
                                         "CURPress",
                                         "CapPress",
                                         "ChunkKVPress",
                                         "ChunkPress",
                                         "CompactorPress",
                                         "ComposedPress",
                                         "CompressionRatioDecodingPress",
                                         "CriticalAdaKVPress",
                                         "CriticalKVPress",
                                         "DMSPress",
                                         "DuoAttentionPress",
                                         "FastKVzipPress",
                                         "EntropyGatedChunkKVPress",
                                         "FinchPress",
                                         "KVComposePress",
                                         "ExpectedAttentionStatsPress",
                                         "KVGradPress",
                                         "KVzapPress",
                                         "KVzipPress",
                                         "KeyRerotationPress",
                                         "LUKVPress",
                                         "LeverageScorePress",
                                         "MergingPress",
                                         "NonCausalAttnPress",
                                         "PerLayerCompressionPress",
                                         "PrefillDecodingPress",
                                         "QFilterPress",
                                         "RestoreKVPress",
                                         "SimLayerKVPress",
                                         "ThinKPress"};

const Press& find_press(const std::string& name) {
  const auto found =
      std::find_if(presses().begin(), presses().end(), [&](const Press& press) { return press.name == name; });
  if (found != presses().end()) return *found;
  const std::string mapped = join(mapped_presses());
  if (std::find(unmapped_presses.begin(), unmapped_presses.end(), name) != unmapped_presses.end()) {
    throw Error(ErrorCode::unsupported, "this press has no counterpart here; mapped are " + mapped,
                {.parameter = "kvpress", .value = name});
  }
  throw Error(ErrorCode::unknown_name,
              fmt::format("kvpress has no such press; nearest: {}; mapped are {}",
                          nearest_of(name, mapped_presses(), 1).front(), mapped),
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
  if (argument.counterpart == nullptr) return;
  const std::string name = argument.counterpart;
  std::vector<ParameterSpec> specs = find_part(press.part).parameters;
  std::erase_if(specs, [&](const ParameterSpec& spec) { return spec.name != name; });
  as_argument(press.name, argument.name, [&] { return Parameters(press.part, specs, {{name, value}}); });
}

/// A Python literal in our notation.
std::string value_of(const Press& press, const PressArgument& argument, const Call& value) {
  const char* expected = nullptr;
  if (!value.called && !value.quoted) {
    switch (argument.kind) {
      case ValueKind::boolean:
        if (value.name == "True") return "true";
        if (value.name == "False") return "false";
        break;
      case ValueKind::optional_integer:
        if (value.name == "None") return "0";
        [[fallthrough]];
      case ValueKind::integer:
        if (const std::string number = plain_number(value.name); read_number<std::int64_t>(number)) return number;
        break;
      case ValueKind::number:
        if (const std::string number = plain_number(value.name); read_number<double>(number)) return number;
        break;
      case ValueKind::press:
        break;
    }
  }
  switch (argument.kind) {
    case ValueKind::integer:
      expected = "must be an integer";
      break;
    case ValueKind::number:
      expected = "must be a number";
      break;
    case ValueKind::boolean:
      expected = "must be True or False";
      break;
    case ValueKind::optional_integer:
      expected = "must be an integer or None";
      break;
    case ValueKind::press:
      expected = "must be a press such as KnormPress()";
      break;
  }
  throw Error(ErrorCode::invalid_argument, expected,
              {.parameter = fmt::format("{}: {}", press.name, argument.name), .value = value.name});
}

PolicyText map_press(const Call& call);

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
    if (argument.kind == ValueKind::press && value.called) {
      read.press = map_press(value);
    } else if (argument.name == std::string_view(ratio.name)) {
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
    if (given[place] || argument.name == std::string_view(ratio.name)) continue;
    if (argument.default_value == nullptr) {
      throw Error(ErrorCode::invalid_argument, "must be given",
                  {.parameter = fmt::format("{}: {}", press.name, argument.name)});
    }
    set(place, Call{.name = argument.default_value});
  }
  return read;
}

PolicyText map_press(const Call& call) {
  const Press& press = find_press(call.name);
  const PressArguments arguments = read_arguments(press, call);
  PolicyText text = press.map(arguments);
  text.press = press.name;
  if (arguments.compression_ratio) {
    text.budget = as_argument(press.name, ratio.name,
                              [&] { return Budget::from_compression_ratio(*arguments.compression_ratio).text(); });
  }
  return text;
}

}  // namespace

std::string press_to_policy(std::string_view text) {
  const Call call = parse_call(text, TrailingComma::allowed);
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
  const bool mapped =
      std::any_of(presses().begin(), presses().end(), [&](const Press& press) { return press.name == name; });
  const bool known =
      mapped || std::find(unmapped_presses.begin(), unmapped_presses.end(), name) != unmapped_presses.end();
  return known ? std::string(name) : std::string();
}

std::vector<std::string> mapped_presses() {
  std::vector<std::string> names;
  for (const Press& press : presses()) names.emplace_back(press.name);
  return names;
}

}  // namespace evictsim::policies

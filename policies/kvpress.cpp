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
#include "traces/error.h"

namespace evictsim::policies {
namespace {

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
  const char* default_value;  ///< as Python writes it; nullptr: must be given
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
  if (given["target_size"] == "1") {
    throw Error(ErrorCode::invalid_argument, "must be 2 or more", {.parameter = "target_size", .value = "1"});
  }
  text.budget = given["target_size"];
  return text;
}

const std::vector<Press>& presses() {
  using enum ValueKind;
  static const std::vector<Press> table = {
      {adakv_press, {{"press", press, nullptr}, {"alpha_safeguard", number, "0.20"}}, map_adakv},
      {decoding_press,
       {{"base_press", press, nullptr},
        {"compression_interval", integer, "512"},
        {"target_size", integer, "2048"},
        // How many hidden states kvpress keeps for scoring while decoding; here every query seen is at hand.
        {"hidden_states_buffer_size", integer, "256"}},
       map_decoding},
      {"ExpectedAttentionPress",
       {ratio,
        {"n_future_positions", integer, "512"},
        {"n_sink", integer, "4"},
        {"use_covariance", boolean, "True"},
        {"use_vnorm", boolean, "True"},
        {"epsilon", number, "0.0"}},
       [](const PressArguments& given) -> PolicyText {
         return {.name = "expected_attention",
                 .arguments = {"future=" + given["n_future_positions"], "sinks=" + given["n_sink"],
                               "covariance=" + given["use_covariance"], "value_norm=" + given["use_vnorm"],
                               "epsilon=" + given["epsilon"]}};
       }},
      {"KeyDiffPress", {ratio}, [](const PressArguments&) -> PolicyText { return {.name = "keydiff"}; }},
      {"KnormPress", {ratio}, [](const PressArguments&) -> PolicyText { return {.name = "knorm"}; }},
      {"LagKVPress",
       {ratio, {"n_sink", integer, "4"}, {"lag_size", integer, "128"}, {"cross_scoring", boolean, "False"}},
       [](const PressArguments& given) -> PolicyText {
         return {
             .name = "lagkv",
             .arguments = {"sinks=" + given["n_sink"], "lag=" + given["lag_size"], "cross=" + given["cross_scoring"]}};
       }},
      {"ObservedAttentionPress",
       {ratio, {"output_attentions", boolean, "False"}},
       [](const PressArguments&) -> PolicyText { return {.name = "observed_attention"}; }},
      {pyramid_press,
       {ratio, {"window_size", integer, "64"}, {"kernel_size", integer, "5"}, {"beta", integer, "20"}},
       map_pyramid},
      {"RandomPress",
       {ratio, {"seed", optional_integer, "None"}},
       [](const PressArguments& given) -> PolicyText {
         return {.name = "random", .arguments = {"seed=" + given["seed"]}};
       }},
      {"SnapKVPress",
       {ratio, {"window_size", integer, "64"}, {"kernel_size", integer, "5"}},
       [](const PressArguments& given) { return map_snapkv("snapkv", given); }},
      {"StreamingLLMPress",
       {ratio, {"n_sink", integer, "4"}},
       [](const PressArguments& given) -> PolicyText {
         return {.name = "streaming_llm", .arguments = {"variant=library", "sinks=" + given["n_sink"]}};
       }},
      {"TOVAPress", {ratio}, [](const PressArguments&) -> PolicyText {
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

template <typename Number>
bool reads_as(const std::string& text) {
  Number number{};
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  return failure == std::errc() && end == text.data() + text.size();
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
        if (reads_as<std::int64_t>(value.name)) return value.name;
        break;
      case ValueKind::number:
        if (reads_as<double>(value.name)) return value.name;
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
      read.values[argument.name] = value_of(press, argument, value);
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
      throw Error(ErrorCode::unknown_name, fmt::format("{} takes {}", press.name, join(names)),
                  {.parameter = argument.key.empty() ? argument.value.name : argument.key});
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
  if (arguments.compression_ratio) text.budget = Budget::from_compression_ratio(*arguments.compression_ratio).text();
  return text;
}

}  // namespace

std::string press_to_policy(std::string_view text) {
  const Call call = parse_call(text);
  if (!call.called) {
    throw Error(ErrorCode::invalid_argument, "a press is written as a call, such as KnormPress()",
                {.parameter = "kvpress", .value = std::string(text)});
  }
  return map_press(call).text();
}

std::vector<std::string> mapped_presses() {
  std::vector<std::string> names;
  for (const Press& press : presses()) names.emplace_back(press.name);
  return names;
}

}  // namespace evictsim::policies

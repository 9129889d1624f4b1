#include "sim/serving/arrivals.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <utility>

#include "policies/call.h"
#include "policies/names.h"
#include "traces/error.h"

namespace evictsim::sim {
namespace {

using policies::Argument;
using policies::Call;

constexpr const char* workload_option = "--workload";
constexpr double largest_variation = 100;

constexpr std::array processes = {
    std::pair{"poisson", ArrivalProcess::poisson}, std::pair{"gamma", ArrivalProcess::gamma},
    std::pair{"constant", ArrivalProcess::constant}, std::pair{"closed", ArrivalProcess::closed}};

std::string name_of(ArrivalProcess process) {
  for (const auto& [name, known] : processes) {
    if (known == process) return name;
  }
  return {};
}

Error invalid(const std::string& parameter, const std::string& value, const std::string& what) {
  return {ErrorCode::invalid_argument, what, {.parameter = parameter, .value = value}};
}

template <typename Number>
Number number_of(const Call& value, const std::string& parameter, const char* expected) {
  Number number{};
  const char* const end = value.name.data() + value.name.size();
  const auto [read, problem] = std::from_chars(value.name.data(), end, number);
  if (value.called || value.quoted || problem != std::errc{} || read != end) {
    throw invalid(parameter, value.name, std::string("expected ") + expected);
  }
  return number;
}

std::string with_key(const std::string& parameter, const std::string& key) { return parameter + " " + key; }

Error unknown_key(const Call& call, const std::string& key, const std::vector<std::string>& known,
                  const std::string& parameter) {
  return {ErrorCode::unknown_name,
          fmt::format("{} has no parameter of that name; it has {}", call.name, policies::join(known)),
          {.parameter = parameter, .value = key}};
}

/// Names positional arguments in the order of `keys`, and refuses others.
std::vector<std::pair<std::string, const Call*>> arguments_of(const Call& call, const std::vector<std::string>& keys,
                                                              const std::string& parameter) {
  std::vector<std::pair<std::string, const Call*>> named;
  std::size_t place = 0;
  for (const Argument& argument : call.arguments) {
    std::string key = argument.key;
    if (key.empty()) {
      if (place >= keys.size()) throw invalid(parameter, call.name, "too many arguments in parentheses");
      key = keys[place++];
    }
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) throw unknown_key(call, key, keys, parameter);
    for (const auto& [other, value] : named) {
      if (other == key) throw invalid(parameter, key, "is given twice");
    }
    named.emplace_back(key, &argument.value);
  }
  return named;
}

TokenCount token_count(const Call& call, const std::string& parameter) {
  TokenCount count;
  const auto tokens = [&](const Call& value) {
    const auto number = number_of<double>(value, parameter, "a number of tokens");
    if (!(number >= 1 && number <= static_cast<double>(traces::most_tokens))) {
      throw invalid(parameter, value.name, "expected 1 to 2^31 tokens");
    }
    return number;
  };
  if (!call.called) {
    count.mean = tokens(call);
  } else if (call.name == "fixed") {
    const auto arguments = arguments_of(call, {"tokens"}, parameter);
    if (arguments.empty()) throw invalid(parameter, "fixed", "needs a number of tokens: fixed(256)");
    count.mean = tokens(*arguments.front().second);
  } else if (call.name == "lognormal") {
    bool has_mean = false;
    count.variation = 1;
    for (const auto& [key, value] : arguments_of(call, {"mean", "cv"}, parameter)) {
      if (key == "mean") {
        count.mean = tokens(*value);
        has_mean = true;
      } else {
        count.variation = number_of<double>(*value, parameter, "a coefficient of variation");
        if (!(count.variation >= 0 && count.variation <= largest_variation)) {
          throw invalid(parameter, value->name, "expected a coefficient of variation from 0 to 100");
        }
      }
    }
    if (!has_mean) throw invalid(parameter, "lognormal", "needs a mean: lognormal(mean=1000, cv=1)");
  } else {
    throw Error(ErrorCode::unknown_name, "expected a number of tokens, fixed(256) or lognormal(mean=1000, cv=1)",
                {.parameter = parameter, .value = call.name});
  }
  if (count.variation == 0 && count.mean != std::floor(count.mean)) {
    throw invalid(parameter, fmt::format("{}", count.mean), "expected a whole number of tokens");
  }
  return count;
}

}  // namespace

TokenCount TokenCount::parse(std::string_view text, const std::string& parameter) {
  try {
    return token_count(policies::parse_call(text), parameter);
  } catch (const Error& problem) {
    if (!problem.context().parameter.empty() && problem.context().parameter != policies::policy_option) throw;
    throw invalid(parameter, std::string(text), problem.message());
  }
}

std::string TokenCount::text() const {
  return variation == 0 ? fmt::format("{}", mean) : fmt::format("lognormal(mean={},cv={})", mean, variation);
}

std::int64_t TokenCount::draw(RandomNumbers& random) const {
  if (variation == 0) return std::llround(mean);
  const double variance = std::log1p(variation * variation);
  const double value = mean * std::exp(std::sqrt(variance) * random.normal() - variance / 2);
  return std::llround(std::clamp(value, 1.0, static_cast<double>(traces::most_tokens)));
}

bool GeneratedWorkload::is_one(std::string_view text) {
  const std::string_view name = text.substr(0, text.find('('));
  return std::any_of(processes.begin(), processes.end(), [&](const auto& known) { return known.first == name; });
}

GeneratedWorkload GeneratedWorkload::parse(std::string_view text, const GeneratedWorkload& defaults) {
  Call call;
  try {
    call = policies::parse_call(text);
  } catch (const Error& problem) {
    throw invalid(workload_option, std::string(text), problem.message());
  }
  GeneratedWorkload workload = defaults;
  for (const auto& [name, process] : processes) {
    if (call.name == name) workload.arrivals = process;
  }
  std::vector<std::string> keys = {"prompt",        "output", "lengths",      "prefix_groups",
                                   "prefix_tokens", "turns",  "think_seconds"};
  if (workload.arrivals == ArrivalProcess::gamma) keys.insert(keys.begin(), "cv");
  if (workload.arrivals == ArrivalProcess::closed) keys.insert(keys.begin(), "concurrency");
  for (const auto& [key, value] : arguments_of(call, keys, workload_option)) {
    const std::string parameter = with_key(workload_option, key);
    const auto whole = [&, v = value] { return number_of<std::int64_t>(*v, parameter, "a whole number"); };
    if (key == "cv") workload.variation = number_of<double>(*value, parameter, "a coefficient of variation");
    if (key == "concurrency") workload.concurrency = whole();
    if (key == "prompt") workload.prompt = token_count(*value, parameter);
    if (key == "output") workload.output = token_count(*value, parameter);
    if (key == "prompt" || key == "output") workload.lengths = nullptr;
    if (key == "lengths") workload.lengths = read_measured_lengths(value->name);
    if (key == "prefix_groups") workload.prefix_groups = whole();
    if (key == "prefix_tokens") workload.prefix_tokens = whole();
    if (key == "turns") workload.turns = whole();
    if (key == "think_seconds") workload.think_seconds = number_of<double>(*value, parameter, "seconds");
  }
  workload.check();
  return workload;
}

void GeneratedWorkload::check() const {
  const auto refuse = [](const char* key, double value, const char* expected) {
    throw invalid(with_key(workload_option, key), fmt::format("{}", value), std::string("expected ") + expected);
  };
  if (!(variation > 0 && variation <= largest_variation)) {
    refuse("cv", variation, "a coefficient of variation above 0, at most 100");
  }
  constexpr std::int64_t most = std::int64_t{1} << 28U;
  if (concurrency < 1 || concurrency > most) {
    refuse("concurrency", static_cast<double>(concurrency), "at least 1 user, at most 2^28");
  }
  if (prefix_groups < 0 || prefix_groups > most) {
    refuse("prefix_groups", static_cast<double>(prefix_groups), "0 to 2^28 groups");
  }
  constexpr std::int64_t longest_prefix = std::int64_t{1} << 22U;  // its blocks are named in every request
  if (prefix_tokens < 0 || prefix_tokens > longest_prefix) {
    refuse("prefix_tokens", static_cast<double>(prefix_tokens), "0 to 2^22 tokens");
  }
  if ((prefix_groups > 0) != (prefix_tokens > 0)) {
    refuse(prefix_groups > 0 ? "prefix_tokens" : "prefix_groups", 0,
           "prefix groups and prefix tokens together, both above 0 or both 0");
  }
  if (turns < 1 || turns > 10000) refuse("turns", static_cast<double>(turns), "1 to 10000 turns");
  if (!(think_seconds >= 0 && think_seconds <= 1e9)) refuse("think_seconds", think_seconds, "0 to 1e9 seconds");
}

std::string GeneratedWorkload::text() const {
  std::string text = name_of(arrivals) + "(";
  if (arrivals == ArrivalProcess::gamma) text += fmt::format("cv={},", variation);
  if (closed()) text += fmt::format("concurrency={},", concurrency);
  text += lengths ? "lengths=" + policies::quote_word(lengths->file)
                  : fmt::format("prompt={},output={}", prompt.text(), output.text());
  if (prefix_groups > 0) text += fmt::format(",prefix_groups={},prefix_tokens={}", prefix_groups, prefix_tokens);
  if (turns > 1) text += fmt::format(",turns={}", turns);
  if (think_seconds > 0) text += fmt::format(",think_seconds={}", think_seconds);
  return text + ")";
}

double GeneratedWorkload::gap(RandomNumbers& random) const {
  if (arrivals == ArrivalProcess::poisson) return random.exponential();
  if (arrivals == ArrivalProcess::constant) return 1;
  const double shape = 1 / (variation * variation);
  return random.gamma(shape) / shape;
}

std::shared_ptr<const MeasuredLengths> read_measured_lengths(const std::string& file) {
  return std::make_shared<MeasuredLengths>(MeasuredLengths{file, traces::read_lengths(file)});
}

}  // namespace evictsim::sim

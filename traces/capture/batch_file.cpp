#include "traces/capture/batch_file.h"

#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

using Json = nlohmann::json;
using Setter = std::function<void(const Json&, SequencePlan&)>;

/// What is wrong with a value; its line is added by the caller.
[[noreturn]] void refuse(const std::string& key, const std::string& rule) {
  throw Error(ErrorCode::invalid_argument, rule, {.parameter = key});
}

std::string text_of(const std::string& key, const Json& value) {
  if (!value.is_string()) refuse(key, "must be a string");
  return value.get<std::string>();
}

bool flag_of(const std::string& key, const Json& value) {
  if (!value.is_boolean()) refuse(key, "must be true or false");
  return value.get<bool>();
}

std::int32_t count_of(const std::string& key, const Json& value) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > std::numeric_limits<std::int32_t>::max()) {
    refuse(key, fmt::format("must be a whole number from 0 to {}", std::numeric_limits<std::int32_t>::max()));
  }
  return value.get<std::int32_t>();
}

std::vector<std::int32_t> tokens_of(const std::string& key, const Json& value) {
  if (!value.is_array() || value.empty()) refuse(key, "must be a list of token ids, not empty");
  std::vector<std::int32_t> tokens;
  for (const Json& token : value) tokens.push_back(count_of(key, token));
  return tokens;
}

Span range_of(const std::string& key, const Json& value) {
  if (!value.is_array() || value.size() != 2) refuse(key, "must be [first, end], token rows of the prompt");
  return {count_of(key, value[0]), count_of(key, value[1])};
}

const std::map<std::string, Setter>& setters() {
  static const std::map<std::string, Setter> all = {
      {"id", [](const Json& value, SequencePlan& plan) { plan.id = text_of("id", value); }},
      {"prompt", [](const Json& value, SequencePlan& plan) { plan.prompt = text_of("prompt", value); }},
      {"prompt_tokens",
       [](const Json& value, SequencePlan& plan) { plan.prompt_tokens = tokens_of("prompt_tokens", value); }},
      {"chat_template",
       [](const Json& value, SequencePlan& plan) { plan.chat_template = flag_of("chat_template", value); }},
      {"system", [](const Json& value, SequencePlan& plan) { plan.system = text_of("system", value); }},
      {"decode", [](const Json& value, SequencePlan& plan) { plan.decode = count_of("decode", value); }},
      {"ignore_end", [](const Json& value, SequencePlan& plan) { plan.ignore_end = flag_of("ignore_end", value); }},
      {"continuation",
       [](const Json& value, SequencePlan& plan) { plan.continuation = text_of("continuation", value); }},
      {"continuation_tokens",
       [](const Json& value, SequencePlan& plan) {
         plan.continuation_tokens = tokens_of("continuation_tokens", value);
       }},
      {"task", [](const Json& value, SequencePlan& plan) { plan.task = text_of("task", value); }},
      {"spans",
       [](const Json& value, SequencePlan& plan) {
         if (!value.is_array()) refuse("spans", "must be a list of KIND=SNIPPET or KIND=tokens:FIRST:END");
         for (const Json& span : value) plan.spans.push_back(parse_span(text_of("spans", span)));
       }},
      {"second_pass_range",
       [](const Json& value, SequencePlan& plan) { plan.second_pass_range = range_of("second_pass_range", value); }},
  };
  return all;
}

SequencePlan parse_line(const std::string& line, SequencePlan plan) {
  const Json object = Json::parse(line, nullptr, false);
  if (!object.is_object()) throw Error(ErrorCode::invalid_argument, "must be one JSON object");
  for (const auto& [key, value] : object.items()) {
    const auto setter = setters().find(key);
    if (setter == setters().end()) {
      std::string known;
      for (const auto& [name, ignored] : setters()) known += (known.empty() ? "" : ", ") + name;
      refuse(key, "there is no such key; there are " + known);
    }
    setter->second(value, plan);
  }
  if (object.contains("prompt") == object.contains("prompt_tokens")) {
    refuse("prompt", "a line has either a prompt or prompt_tokens");
  }
  if (object.contains("prompt_tokens") && object.value("chat_template", false)) {
    refuse("chat_template", "wraps text; give prompt in place of prompt_tokens");
  }
  if (object.contains("system") && !plan.chat_template) {
    refuse("system", "is a message of the model's template; add \"chat_template\": true");
  }
  const int ways = static_cast<int>(object.contains("decode")) + static_cast<int>(object.contains("continuation")) +
                   static_cast<int>(object.contains("continuation_tokens"));
  if (ways > 1) refuse("decode", "a line has one of decode, continuation and continuation_tokens");
  if (plan.id.empty()) refuse("id", "must not be empty");
  return plan;
}

}  // namespace

std::vector<BatchEntry> parse_batch(const std::string& text, const std::string& file, const SequencePlan& defaults) {
  std::vector<BatchEntry> entries;
  std::map<std::string, std::size_t> lines;
  std::istringstream stream(text);
  std::string line;
  for (std::size_t number = 1; std::getline(stream, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string place = fmt::format("line {}", number);
    SequencePlan plan = defaults;
    plan.id = fmt::format("line-{:06}", number);
    try {
      plan = parse_line(line, std::move(plan));
    } catch (const Error& error) {
      ErrorContext where = error.context();
      where.file = file;
      where.dataset = place;
      throw Error(ErrorCode::invalid_argument, error.message(), where);
    }
    const auto [before, is_new] = lines.try_emplace(plan.id, number);
    if (!is_new) {
      throw Error(ErrorCode::invalid_argument, fmt::format("line {} has this id too", before->second),
                  {.file = file, .dataset = place, .parameter = "id", .value = plan.id});
    }
    entries.push_back({number, std::move(plan)});
  }
  if (entries.empty()) throw Error(ErrorCode::invalid_argument, "must hold at least one prompt", {.file = file});
  return entries;
}

}  // namespace evictsim::traces::capture

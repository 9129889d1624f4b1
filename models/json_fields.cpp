#include "models/json_fields.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <utility>

#include "traces/error.h"

namespace evictsim::models {
namespace {

constexpr double most_exact_whole = 9007199254740992.0;  // 2^53

/// A short form of a value for an error.
std::string shown(const nlohmann::json& value) {
  std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

const char* rule_of(JsonFields::Range range) {
  if (range == JsonFields::Range::positive) return "must be above 0";
  if (range == JsonFields::Range::any) return "must be finite";
  return "must not be negative";
}

bool within(double number, JsonFields::Range range) {
  if (!std::isfinite(number)) return false;
  if (range == JsonFields::Range::positive) return number > 0;
  return range == JsonFields::Range::any || number >= 0;
}

}  // namespace

nlohmann::json parse_json_file(const std::filesystem::path& file) {
  std::error_code failure;
  const ErrorContext where{.file = file.string(), .dataset = {}, .parameter = {}, .value = {}};
  if (!std::filesystem::exists(file, failure)) {
    throw Error(ErrorCode::file_not_found, "the file does not exist", where);
  }
  std::ifstream stream(file, std::ios::binary);
  if (!stream || std::filesystem::is_directory(file, failure)) {
    throw Error(ErrorCode::permission_denied, "the file cannot be read", where);
  }
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::parse_error& error) {
    const std::string before = text.substr(0, error.byte > 0 ? error.byte - 1 : 0);
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const std::size_t column = before.size() - (before.rfind('\n') + 1) + 1;
    throw Error(ErrorCode::invalid_value, fmt::format("is not JSON from line {}, column {} on", line, column), where);
  } catch (const nlohmann::json::exception&) {
    throw Error(ErrorCode::invalid_value, "is not JSON: a number is too large", where);
  }
}

void write_json_file(const std::filesystem::path& file, const nlohmann::ordered_json& content, int indent) {
  const std::filesystem::path partial = file.string() + ".partial";
  const auto fail = [&](const std::string& why) {
    std::error_code ignored;
    std::filesystem::remove(partial, ignored);
    throw Error(ErrorCode::io_failure, why, {.file = file.string(), .dataset = {}, .parameter = {}, .value = {}});
  };
  std::ofstream stream(partial, std::ios::binary);
  stream << content.dump(indent) << '\n';
  stream.close();
  if (!stream) fail("the file cannot be written");
  std::error_code failure;
  std::filesystem::rename(partial, file, failure);
  if (failure) fail(fmt::format("the file cannot be written: {}", failure.message()));
}

JsonFields::JsonFields(const nlohmann::json& object, std::string file, std::string path)
    : object_(&object), file_(std::move(file)), path_(std::move(path)) {
  if (!object.is_object()) {
    throw Error(ErrorCode::wrong_type, "must be an object",
                {.file = file_, .dataset = path_, .parameter = {}, .value = shown(object)});
  }
}

std::string JsonFields::place(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }

void JsonFields::refuse(const std::string& key, const std::string& rule) const {
  throw Error(ErrorCode::invalid_value, rule,
              {.file = file_, .dataset = {}, .parameter = place(key), .value = shown(object_->at(key))});
}

void JsonFields::expect_format(const std::string& name, std::int64_t newest_version) {
  if (text("format") != name) refuse("format", fmt::format("must be \"{}\"", name));
  if (whole("version", Range::positive) > newest_version) {
    throw Error(ErrorCode::unsupported_version, fmt::format("this evictsim reads versions up to {}", newest_version),
                {.file = file_, .dataset = "version", .parameter = {}, .value = {}});
  }
}

bool JsonFields::has(const std::string& key) {
  asked_.insert(key);
  return object_->contains(key);
}

const nlohmann::json& JsonFields::get(const std::string& key) {
  if (!has(key)) {
    throw Error(ErrorCode::missing_data, "this field is missing",
                {.file = file_, .dataset = place(key), .parameter = {}, .value = {}});
  }
  return object_->at(key);
}

std::string JsonFields::text(const std::string& key) {
  const nlohmann::json& value = get(key);
  if (!value.is_string() || value.get_ref<const std::string&>().empty()) {
    throw Error(ErrorCode::wrong_type, "must be a text that is not empty",
                {.file = file_, .dataset = {}, .parameter = place(key), .value = shown(value)});
  }
  return value.get<std::string>();
}

std::vector<std::string> JsonFields::texts(const std::string& key) {
  const nlohmann::json& value = get(key);
  std::vector<std::string> texts;
  bool good = value.is_array();
  if (good) {
    for (const auto& item : value) {
      good = good && item.is_string() && !item.get_ref<const std::string&>().empty();
      if (good) texts.push_back(item.get<std::string>());
    }
  }
  if (!good) {
    throw Error(ErrorCode::wrong_type, "must be a list of texts that are not empty",
                {.file = file_, .dataset = {}, .parameter = place(key), .value = shown(value)});
  }
  return texts;
}

double JsonFields::number(const std::string& key, Range range) {
  const nlohmann::json& value = get(key);
  if (!value.is_number()) {
    throw Error(ErrorCode::wrong_type, "must be a number",
                {.file = file_, .dataset = {}, .parameter = place(key), .value = shown(value)});
  }
  const double number = value.get<double>();
  if (!within(number, range)) refuse(key, rule_of(range));
  return number;
}

std::vector<double> JsonFields::numbers(const std::string& key, Range range) {
  const nlohmann::json& value = get(key);
  std::vector<double> numbers;
  bool good = value.is_array();
  if (good) {
    for (const auto& item : value) {
      good = good && item.is_number();
      if (good) numbers.push_back(item.get<double>());
    }
  }
  if (!good) {
    throw Error(ErrorCode::wrong_type, "must be a list of numbers",
                {.file = file_, .dataset = {}, .parameter = place(key), .value = shown(value)});
  }
  for (const double number : numbers) {
    if (!within(number, range)) refuse(key, rule_of(range));
  }
  return numbers;
}

std::optional<double> JsonFields::optional_number(const std::string& key, Range range) {
  if (!has(key)) return std::nullopt;
  return number(key, range);
}

std::int64_t JsonFields::whole(const std::string& key, Range range) {
  const double value = number(key, range);
  if (value != std::floor(value) || std::abs(value) > most_exact_whole)
    refuse(key, "must be a whole number up to 2^53");
  return static_cast<std::int64_t>(value);
}

std::optional<std::int64_t> JsonFields::optional_whole(const std::string& key, Range range) {
  if (!has(key)) return std::nullopt;
  return whole(key, range);
}

int JsonFields::count(const std::string& key) {
  const std::int64_t value = whole(key, Range::positive);
  if (value > std::numeric_limits<int>::max()) refuse(key, "is too large for a count");
  return static_cast<int>(value);
}

bool JsonFields::flag(const std::string& key) {
  if (!has(key)) return false;
  const nlohmann::json& value = get(key);
  if (!value.is_boolean()) {
    throw Error(ErrorCode::wrong_type, "must be true or false",
                {.file = file_, .dataset = {}, .parameter = place(key), .value = shown(value)});
  }
  return value.get<bool>();
}

JsonFields JsonFields::object(const std::string& key) { return {get(key), file_, place(key)}; }

std::vector<JsonFields> JsonFields::objects(const std::string& key) {
  const nlohmann::json& value = get(key);
  if (!value.is_array()) {
    throw Error(ErrorCode::wrong_type, "must be a list of objects",
                {.file = file_, .dataset = {}, .parameter = place(key), .value = shown(value)});
  }
  std::vector<JsonFields> list;
  for (std::size_t i = 0; i < value.size(); ++i)
    list.emplace_back(value[i], file_, fmt::format("{}[{}]", place(key), i));
  return list;
}

std::vector<std::string> JsonFields::keys() const {
  std::vector<std::string> keys;
  for (const auto& item : object_->items()) keys.push_back(item.key());
  return keys;
}

void JsonFields::finish() const {
  for (const std::string& key : keys()) {
    if (asked_.contains(key)) continue;
    throw Error(ErrorCode::unknown_name,
                fmt::format("there is no such field; known here are {}", fmt::join(asked_, ", ")),
                {.file = file_, .dataset = place(key), .parameter = {}, .value = {}});
  }
}

}  // namespace evictsim::models

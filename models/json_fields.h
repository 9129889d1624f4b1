#pragma once
/// \file
/// Reading a JSON object field by field: whatever is missing, of another type, out of range or unknown is an Error that
/// names file and field. Not installed.

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace evictsim::models {

/// Parses a whole file. Throws Error (file_not_found, permission_denied, invalid_value).
nlohmann::json parse_json_file(const std::filesystem::path& file);
/// Writes it whole or not at all, `indent` spaces a level. Throws Error (io_failure).
void write_json_file(const std::filesystem::path& file, const nlohmann::ordered_json& content, int indent);

class JsonFields {
 public:
  /// `path` is where the object stands in the file; empty for the outermost one. Throws Error (wrong_type).
  JsonFields(const nlohmann::json& object, std::string file, std::string path = {});

  /// What a number may be.
  enum class Range : std::uint8_t { not_negative, positive, any };

  /// The fields `format` and `version`. Throws Error (invalid_value, unsupported_version).
  void expect_format(const std::string& name, std::int64_t newest_version);
  [[nodiscard]] bool has(const std::string& key);
  std::string text(const std::string& key);
  std::vector<std::string> texts(const std::string& key);
  double number(const std::string& key, Range range);
  std::vector<double> numbers(const std::string& key, Range range);
  std::optional<double> optional_number(const std::string& key, Range range);
  std::int64_t whole(const std::string& key, Range range);
  std::optional<std::int64_t> optional_whole(const std::string& key, Range range);
  /// A positive number of things.
  int count(const std::string& key);
  /// True or false; false if the field is missing.
  bool flag(const std::string& key);
  JsonFields object(const std::string& key);
  /// Objects of a list.
  std::vector<JsonFields> objects(const std::string& key);
  /// Every key, in order.
  [[nodiscard]] std::vector<std::string> keys() const;
  /// Throws Error (unknown_name) if the object has a field that nobody asked for.
  void finish() const;
  /// Throws the error of one field.
  [[noreturn]] void refuse(const std::string& key, const std::string& rule) const;

 private:
  const nlohmann::json& get(const std::string& key);
  [[nodiscard]] std::string place(const std::string& key) const;

  const nlohmann::json* object_;
  std::string file_, path_;
  std::set<std::string> asked_;
};

}  // namespace evictsim::models

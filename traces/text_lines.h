#pragma once
/// \file
/// Text files read line by line: CSV and JSON lines, with errors that name file and line. Internal to traces/.

#include <charconv>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "traces/error.h"

namespace evictsim::traces {

/// The lines of a file that are not blank.
class TextLines {
 public:
  /// Throws Error(file_not_found, permission_denied, not_a_trace).
  explicit TextLines(std::filesystem::path path);

  /// The next one, without the byte order mark that spreadsheets put before UTF-8. Throws Error(io_failure).
  bool next(std::string& line);
  /// Of the current line, from 1.
  [[nodiscard]] std::size_t number() const { return number_; }
  /// About the current line.
  [[nodiscard]] Error error(ErrorCode code, const std::string& what, const std::string& field = {},
                            std::string_view value = {}) const;
  /// About the file as a whole.
  [[nodiscard]] Error file_error(ErrorCode code, const std::string& what) const;

 private:
  std::filesystem::path path_;
  std::ifstream stream_;
  std::size_t number_ = 0;
};

/// The fields of a CSV line, without blanks around them and without the quotes around whole fields. A comma within
/// quotes does not end a field; quotes within quotes are left doubled, as no number or name here has them.
void split_csv(std::string_view line, std::vector<std::string_view>& fields);

/// The number that is all of `text`.
template <typename Number>
std::optional<Number> number_in(std::string_view text) {
  Number value{};
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// The object on the current line. Throws Error(wrong_type).
nlohmann::json json_object(const TextLines& lines, const std::string& line);
/// A value as errors quote it; lists and objects, which may be deep, by their kind.
std::string quoted(const nlohmann::json& value);
/// A name of a block: whole numbers from -2^63 to 2^64 - 1, negative ones as their bits. Throws Error(wrong_type).
std::uint64_t block_name(const TextLines& lines, const std::string& field, const nlohmann::json& value);

}  // namespace evictsim::traces

#pragma once
/// \file
/// Comma-separated values: fields quoted as RFC 4180 says, lines ended by a line feed, numbers as the shortest decimal
/// that reads back as the same double.

#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>

namespace evictsim::analysis {

/// Shortest decimal of `value`; whole numbers below 2^53 without an exponent; empty for NaN.
std::string decimal(double value);
/// `text` quoted if it holds a comma, a quote or a line end.
std::string csv_field(std::string_view text);
/// One line, line feed included.
std::string csv_line(std::span<const std::string> fields);

/// A file that is complete up to the last `append`.
class CsvFile {
 public:
  /// Creates or empties the file and writes the header. Throws Error(permission_denied, file_not_found, io_failure).
  CsvFile(const std::filesystem::path& path, std::span<const std::string> columns);
  /// Goes on behind what a file with these columns holds; a last line that was cut short is removed. Creates the file
  /// where there is none. Throws Error(invalid_value) when its first line is another one.
  static CsvFile resume(const std::filesystem::path& path, std::span<const std::string> columns);
  /// Writes lines and flushes them to the operating system. Throws Error(io_failure).
  void append(std::string_view lines);

 private:
  CsvFile(const std::filesystem::path& path, std::ios::openmode mode);
  std::filesystem::path path_;
  std::ofstream stream_;
};

}  // namespace evictsim::analysis

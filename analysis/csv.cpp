#include "analysis/csv.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <system_error>

#include "traces/error.h"
#include "traces/file_system.h"

namespace evictsim::analysis {

std::string decimal(double value) {
  if (std::isnan(value)) return {};
  std::array<char, 32> text{};
  constexpr double exact_whole = 9007199254740992.0;  // 2^53
  const bool whole = std::abs(value) < exact_whole && value == std::trunc(value);
  const std::to_chars_result end = whole ? std::to_chars(text.begin(), text.end(), static_cast<std::int64_t>(value))
                                         : std::to_chars(text.begin(), text.end(), value);
  return {text.data(), end.ptr};
}

std::string csv_field(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string quoted = "\"";
  for (const char character : text) {
    if (character == '"') quoted += '"';
    quoted += character;
  }
  return quoted + '"';
}

std::string csv_line(std::span<const std::string> fields) {
  std::string line;
  for (const std::string& field : fields) {
    if (&field != fields.data()) line += ',';
    line += csv_field(field);
  }
  return line + '\n';
}

CsvFile::CsvFile(const std::filesystem::path& path, std::ios::openmode mode) : path_(path) {
  errno = 0;
  stream_.open(path, std::ios::binary | mode);
  if (!stream_) throw traces::system_error(errno, path, "create the file");
}

CsvFile::CsvFile(const std::filesystem::path& path, std::span<const std::string> columns)
    : CsvFile(path, std::ios::trunc) {
  append(csv_line(columns));
}

CsvFile CsvFile::resume(const std::filesystem::path& path, std::span<const std::string> columns) {
  std::error_code failure;
  if (!std::filesystem::exists(path, failure)) return {path, columns};
  const std::string header = csv_line(columns);
  std::ifstream stream(path, std::ios::binary);
  std::string first(header.size(), '\0');
  stream.read(first.data(), static_cast<std::streamsize>(first.size()));
  if (!stream || first != header) {
    throw Error(ErrorCode::invalid_value, "has other columns, so nothing can be added to it", {.file = path.string()});
  }
  // Behind the last line end.
  std::uintmax_t whole = header.size(), read = header.size();
  for (char letter = 0; stream.get(letter);) {
    ++read;
    if (letter == '\n') whole = read;
  }
  if (whole < read) std::filesystem::resize_file(path, whole);
  return {path, std::ios::app};
}

void CsvFile::append(std::string_view lines) {
  stream_.write(lines.data(), static_cast<std::streamsize>(lines.size()));
  stream_.flush();
  if (!stream_) throw Error(ErrorCode::io_failure, "cannot be written: is the disk full?", {.file = path_.string()});
}

}  // namespace evictsim::analysis

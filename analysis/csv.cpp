#include "analysis/csv.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdint>

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

CsvFile::CsvFile(const std::filesystem::path& path, std::span<const std::string> columns) : path_(path) {
  errno = 0;
  stream_.open(path, std::ios::binary | std::ios::trunc);
  if (!stream_) throw traces::system_error(errno, path, "create the file");
  append(csv_line(columns));
}

void CsvFile::append(std::string_view lines) {
  stream_.write(lines.data(), static_cast<std::streamsize>(lines.size()));
  stream_.flush();
  if (!stream_) throw Error(ErrorCode::io_failure, "cannot be written: is the disk full?", {.file = path_.string()});
}

}  // namespace evictsim::analysis

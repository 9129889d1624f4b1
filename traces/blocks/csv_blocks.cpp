#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "traces/blocks/block_readers.h"
#include "traces/blocks/object_numbers.h"
#include "traces/error.h"

namespace evictsim::traces {
namespace {

constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";  // that spreadsheets put before UTF-8
constexpr std::size_t absent = static_cast<std::size_t>(-1);

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  text = text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') text = text.substr(1, text.size() - 2);
  return text;
}

void split(std::string_view line, std::vector<std::string_view>& fields) {
  fields.clear();
  while (true) {
    const std::size_t comma = line.find(',');
    fields.push_back(trimmed(line.substr(0, comma)));
    if (comma == std::string_view::npos) return;
    line.remove_prefix(comma + 1);
  }
}

template <typename Number>
std::optional<Number> number_in(std::string_view text) {
  Number value{};
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

class CsvBlocks {
 public:
  explicit CsvBlocks(const std::filesystem::path& path) : path_(path) {}

  BlockTrace read() {
    std::ifstream stream(path_, std::ios::binary);
    std::vector<std::string_view> fields;
    bool first = true;
    for (std::string line; std::getline(stream, line);) {
      ++line_;
      if (line_ == 1 && line.starts_with(byte_order_mark)) line.erase(0, byte_order_mark.size());
      if (trimmed(line).empty()) continue;
      split(line, fields);
      if (std::exchange(first, false) && find_columns(fields)) continue;
      take(fields);
    }
    if (stream.bad()) throw Error(ErrorCode::io_failure, "cannot be read", {.file = path_.string()});
    trace_.objects = numbers_.count();
    return std::move(trace_);
  }

 private:
  [[nodiscard]] Error error(ErrorCode code, const std::string& what, const std::string& column = {},
                            std::string_view value = {}) const {
    return {code,
            what,
            {.file = path_.string(), .dataset = line_name(line_), .parameter = column, .value = std::string(value)}};
  }

  /// Whether `fields` is a header; without one the columns are time, object and, if there is a third, size.
  bool find_columns(const std::vector<std::string_view>& fields) {
    const auto column = [&](std::string_view name) {
      const auto found = std::find(fields.begin(), fields.end(), name);
      return found == fields.end() ? absent : static_cast<std::size_t>(found - fields.begin());
    };
    const bool header = column("time") != absent || column("object") != absent;
    if (header) {
      time_ = column("time");
      object_ = column("object");
      size_ = column("size");
      for (const auto& [name, place] : {std::pair{"time", time_}, std::pair{"object", object_}}) {
        if (place == absent) throw error(ErrorCode::missing_data, "the header has no such column", name);
      }
      columns_ = fields.size();
    } else {
      columns_ = fields.size();
      if (columns_ < 2 || columns_ > 3) {
        throw error(ErrorCode::wrong_type, "expected time,object or time,object,size, or a header with these names",
                    "columns", std::to_string(columns_));
      }
      size_ = columns_ == 3 ? 2 : absent;
    }
    return header;
  }

  void take(const std::vector<std::string_view>& fields) {
    if (fields.size() != columns_) {
      throw error(ErrorCode::wrong_type, "expected " + std::to_string(columns_) + " as in the first line", "columns",
                  std::to_string(fields.size()));
    }
    const std::string_view time_text = fields[time_];
    const std::optional<double> time = number_in<double>(time_text);
    if (!time || !std::isfinite(*time)) throw error(ErrorCode::wrong_type, "expected a number", "time", time_text);
    if (*time < 0) throw error(ErrorCode::invalid_value, "times are not negative", "time", time_text);
    if (*time < last_time_) {
      throw error(ErrorCode::invalid_value, "earlier than the line before: times must not go back", "time", time_text);
    }
    last_time_ = *time;
    const std::string_view object = fields[object_];
    if (object.empty()) throw error(ErrorCode::missing_data, "is empty", "object");
    const std::optional<std::uint64_t> number = number_in<std::uint64_t>(object);
    // "007" and "7" are two names: only text that a number would be written as stands for it.
    const bool canonical = number && (object.front() != '0' || object.size() == 1);
    trace_.references.push_back(canonical ? numbers_.of(*number) : numbers_.of_text(object));
    if (size_ == absent) return;
    const std::optional<std::uint64_t> size = number_in<std::uint64_t>(fields[size_]);
    if (!size || *size == 0 || *size > largest_size) {
      throw error(ErrorCode::invalid_value, "expected a whole number of bytes from 1 to 2^48", "size", fields[size_]);
    }
    trace_.sizes.push_back(*size);
  }

  static constexpr std::uint64_t largest_size = std::uint64_t{1} << 48U;

  std::filesystem::path path_;
  BlockTrace trace_;
  ObjectNumbers numbers_;
  std::size_t line_ = 0, columns_ = 0;
  std::size_t time_ = 0, object_ = 1, size_ = absent;
  double last_time_ = 0;
};

}  // namespace

BlockTrace read_csv_blocks(const std::filesystem::path& path) { return CsvBlocks(path).read(); }

}  // namespace evictsim::traces

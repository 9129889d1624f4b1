#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "traces/blocks/block_readers.h"
#include "traces/blocks/object_numbers.h"
#include "traces/error.h"
#include "traces/text_lines.h"

namespace evictsim::traces {
namespace {

constexpr std::size_t absent = static_cast<std::size_t>(-1);

class CsvBlocks {
 public:
  explicit CsvBlocks(const std::filesystem::path& path) : lines_(path) {}

  BlockTrace read() {
    std::vector<std::string_view> fields;
    bool first = true;
    for (std::string line; lines_.next(line);) {
      split_csv(line, fields);
      if (std::exchange(first, false) && find_columns(fields)) continue;
      take(fields);
    }
    trace_.objects = numbers_.count();
    return std::move(trace_);
  }

 private:
  [[nodiscard]] Error error(ErrorCode code, const std::string& what, const std::string& column = {},
                            std::string_view value = {}) const {
    return lines_.error(code, what, column, value);
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

  TextLines lines_;
  BlockTrace trace_;
  ObjectNumbers numbers_;
  std::size_t columns_ = 0;
  std::size_t time_ = 0, object_ = 1, size_ = absent;
  double last_time_ = 0;
};

}  // namespace

BlockTrace read_csv_blocks(const std::filesystem::path& path) { return CsvBlocks(path).read(); }

}  // namespace evictsim::traces

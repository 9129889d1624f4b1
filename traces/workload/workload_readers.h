#pragma once
/// \file
/// What the readers of workloads share. Internal to traces/workload/.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "traces/text_lines.h"
#include "traces/workload/workload.h"

namespace evictsim::traces {

/// Nanoseconds since 1970 of "2023-11-16 18:15:46.6805900", with 'T' between date and time and an offset from UTC
/// ("Z", "+00:00") if there is one; none if `text` is no such date from 1970 to 2261.
std::optional<std::int64_t> parse_date(std::string_view text);
/// `value` units of that many nanoseconds, to the nearest; none if not finite or beyond 292 years.
std::optional<std::int64_t> to_nanoseconds(double value, double unit);

/// Checks requests as they come, and collects them.
class WorkloadRows {
 public:
  /// Only lengths are wanted: rows have no times. References must outlive this.
  WorkloadRows(const TextLines& lines, bool lengths_only) : lines_(lines), lengths_only_(lengths_only) {}

  /// The current line's arrival. `column` and `text` are for the error.
  void arrival(std::int64_t nanoseconds, const std::string& column, std::string_view text);
  /// A number of tokens from 1 to most_tokens.
  [[nodiscard]] std::int64_t tokens(std::optional<std::int64_t> count, const std::string& column,
                                    std::string_view text) const;
  /// The number of a session by its name; 0 without a name.
  std::uint32_t session(std::string_view name);
  /// Ends the current line. Sets the arrival.
  void add(WorkloadRequest&& request);
  void skip() { ++workload_.failed; }
  [[nodiscard]] bool lengths_only() const { return lengths_only_; }
  /// Throws Error(missing_data) if nothing was added.
  Workload take(WorkloadFormat format);

 private:
  const TextLines& lines_;
  bool lengths_only_;
  Workload workload_;
  std::unordered_map<std::string, std::uint32_t> sessions_;
  std::optional<std::int64_t> first_;
  std::int64_t last_ = 0;
};

/// `first`: the line that was read last, which tells the format. Both read to the end.
Workload read_csv_workload(TextLines& lines, std::string first, bool lengths_only);
Workload read_json_workload(TextLines& lines, std::string first, bool lengths_only);

}  // namespace evictsim::traces

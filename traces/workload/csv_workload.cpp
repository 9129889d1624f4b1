#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <utility>

#include "traces/workload/workload_readers.h"

namespace evictsim::traces {
namespace {

/// What a column means.
enum class Role : std::uint8_t { time, prompt, output, session, unused };

struct Column {
  const char* name;  ///< in lower case
  Role role;
  double time_unit = 0;  ///< of a time that is a number: nanoseconds
};

constexpr double second = 1e9;
constexpr std::array columns = {
    Column{"timestamp", Role::time, second},
    Column{"arrival", Role::time, second},
    Column{"arrival_s", Role::time, second},
    Column{"arrival_seconds", Role::time, second},
    Column{"arrival_time", Role::time, second},
    Column{"arrived_at", Role::time, second},
    Column{"time", Role::time, second},
    Column{"arrival_ms", Role::time, 1e6},
    Column{"arrival_time_ms", Role::time, 1e6},
    Column{"arrival_ns", Role::time, 1},
    Column{"arrival_time_ns", Role::time, 1},
    Column{"contexttokens", Role::prompt},
    Column{"request tokens", Role::prompt},
    Column{"prompt", Role::prompt},
    Column{"prompt_tokens", Role::prompt},
    Column{"input_tokens", Role::prompt},
    Column{"input_toks", Role::prompt},
    Column{"input_length", Role::prompt},
    Column{"num_prefill_tokens", Role::prompt},
    Column{"generatedtokens", Role::output},
    Column{"response tokens", Role::output},
    Column{"output", Role::output},
    Column{"output_tokens", Role::output},
    Column{"output_toks", Role::output},
    Column{"output_length", Role::output},
    Column{"num_decode_tokens", Role::output},
    Column{"session", Role::session},
    Column{"session_id", Role::session},
    Column{"session id", Role::session},
    Column{"elapsed time", Role::unused},
    Column{"model", Role::unused},
    Column{"total tokens", Role::unused},
    Column{"log type", Role::unused},
    Column{"num_total_tokens", Role::unused},
    Column{"pd_ratio", Role::unused},
};

constexpr std::size_t absent = static_cast<std::size_t>(-1);

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& letter : result) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  return result;
}

bool all_numbers(const std::vector<std::string_view>& fields) {
  return std::all_of(fields.begin(), fields.end(),
                     [](std::string_view field) { return number_in<double>(field).has_value(); });
}

class CsvRows {
 public:
  CsvRows(TextLines& lines, bool lengths_only) : lines_(lines), rows_(lines, lengths_only) {}

  Workload read(std::string line) {
    std::vector<std::string_view> fields;
    split_csv(line, fields);
    if (all_numbers(fields)) {
      by_place(fields.size());
      take(fields);
    } else {
      by_name(fields);
    }
    while (lines_.next(line)) {
      split_csv(line, fields);
      take(fields);
    }
    return rows_.take(format_);
  }

 private:
  struct Place {
    std::size_t at = absent;
    std::string name;
  };

  [[nodiscard]] Place& place(Role role) { return places_[static_cast<std::size_t>(role)]; }
  [[nodiscard]] bool has(Role role) const { return places_[static_cast<std::size_t>(role)].at != absent; }

  /// Without a header: arrival in seconds, prompt, output and perhaps session; of lengths, prompt and output.
  void by_place(std::size_t count) {
    const bool timed = !(rows_.lengths_only() && count == 2);
    if (timed && (count < 3 || count > 4)) {
      throw lines_.error(ErrorCode::unsupported,
                         "expected a header, or columns of arrival in seconds, prompt, output and perhaps session",
                         "columns", std::to_string(count));
    }
    count_ = count;
    std::size_t next = 0;
    if (timed) place(Role::time) = {next++, "arrival"};
    time_unit_ = second;
    place(Role::prompt) = {next++, "prompt"};
    place(Role::output) = {next++, "output"};
    if (count > next) place(Role::session) = {next, "session"};
  }

  void by_name(const std::vector<std::string_view>& header) {
    count_ = header.size();
    std::vector<std::string> unknown;
    for (std::size_t at = 0; at < header.size(); ++at) {
      const std::string name = lower(header[at]);
      const auto found =
          std::find_if(columns.begin(), columns.end(), [&](const Column& column) { return column.name == name; });
      if (found == columns.end()) {
        unknown.emplace_back(header[at]);
      } else if (found->role != Role::unused) {
        if (has(found->role)) {
          throw lines_.error(ErrorCode::invalid_value, "means the same as " + place(found->role).name + "; keep one",
                             "column", header[at]);
        }
        place(found->role) = {at, std::string(header[at])};
        if (found->role == Role::time) time_unit_ = found->time_unit;
      }
    }
    const bool timed = has(Role::time) || rows_.lengths_only();
    if (!timed || !has(Role::prompt) || !has(Role::output)) {
      const std::string missing = !timed ? "arrival" : !has(Role::prompt) ? "prompt_tokens" : "output_tokens";
      throw lines_.error(
          ErrorCode::unsupported,
          "no known format of requests: expected TIMESTAMP,ContextTokens,GeneratedTokens (Azure), BurstGPT's columns, "
          "arrival_time_ns,input_toks,output_toks, or arrival,prompt_tokens,output_tokens[,session]",
          "missing column", unknown.empty() ? missing : missing + " (found " + unknown.front() + ")");
    }
    if (!unknown.empty()) {
      throw lines_.error(ErrorCode::unknown_name, "no column of requests; remove it if it does not matter", "column",
                         unknown.front());
    }
    if (lower(place(Role::prompt).name) == "contexttokens") format_ = WorkloadFormat::azure;
    if (lower(place(Role::prompt).name) == "request tokens") format_ = WorkloadFormat::burst_gpt;
    if (lower(place(Role::time).name) == "arrival_time_ns") format_ = WorkloadFormat::llmservingsim;
  }

  void take(const std::vector<std::string_view>& fields) {
    if (fields.size() != count_) {
      throw lines_.error(ErrorCode::wrong_type, "expected " + std::to_string(count_) + " as in the first line",
                         "columns", std::to_string(fields.size()));
    }
    if (has(Role::time) && !rows_.lengths_only()) take_time(fields[place(Role::time).at]);
    // BurstGPT's page: a response of 0 tokens marks a request that failed.
    if (format_ == WorkloadFormat::burst_gpt && number_in<std::int64_t>(fields[place(Role::output).at]) == 0) {
      rows_.skip();
      return;
    }
    WorkloadRequest request;
    request.prompt_tokens = tokens(Role::prompt, fields);
    request.output_tokens = tokens(Role::output, fields);
    if (has(Role::session)) request.session = rows_.session(fields[place(Role::session).at]);
    rows_.add(std::move(request));
  }

  void take_time(std::string_view text) {
    std::optional<std::int64_t> nanoseconds;
    if (time_unit_ == 1) nanoseconds = number_in<std::int64_t>(text);
    if (!nanoseconds) {
      if (const auto number = number_in<double>(text)) nanoseconds = to_nanoseconds(*number, time_unit_);
    }
    if (!nanoseconds && time_unit_ == second) nanoseconds = parse_date(text);
    if (!nanoseconds) {
      throw lines_.error(ErrorCode::wrong_type, "expected a time: a number, or 2023-11-16 18:15:46.68",
                         place(Role::time).name, text);
    }
    rows_.arrival(*nanoseconds, place(Role::time).name, text);
  }

  [[nodiscard]] std::int64_t tokens(Role role, const std::vector<std::string_view>& fields) {
    const std::string_view text = fields[place(role).at];
    return rows_.tokens(number_in<std::int64_t>(text), place(role).name, text);
  }

  TextLines& lines_;
  WorkloadRows rows_;
  WorkloadFormat format_ = WorkloadFormat::csv;
  std::array<Place, 5> places_;
  std::size_t count_ = 0;
  double time_unit_ = second;
};

/// Reads digits from the front of `text`: exactly `digits` of them.
std::optional<int> digits_of(std::string_view& text, std::size_t digits) {
  if (text.size() < digits) return std::nullopt;
  int value = 0;
  for (const char digit : text.substr(0, digits)) {
    if (digit < '0' || digit > '9') return std::nullopt;
    value = 10 * value + (digit - '0');
  }
  text.remove_prefix(digits);
  return value;
}

bool skip(std::string_view& text, std::string_view any_of) {
  if (text.empty() || any_of.find(text.front()) == std::string_view::npos) return false;
  text.remove_prefix(1);
  return true;
}

/// Days from 1970-01-01 in the Gregorian calendar: years begin in March, so that the day of leap years comes last.
std::int64_t days_since_1970(int year, int month, int day) {
  const int shifted = month > 2 ? year : year - 1;
  const int months = (month + 9) % 12;
  const std::int64_t days = 365LL * shifted + shifted / 4 - shifted / 100 + shifted / 400;
  constexpr std::int64_t from_march_of_year_0_to_1970 = 719468;
  return days + (153 * months + 2) / 5 + day - 1 - from_march_of_year_0_to_1970;
}

}  // namespace

std::optional<std::int64_t> parse_date(std::string_view text) {
  const auto year = digits_of(text, 4);
  if (!year || !skip(text, "-")) return std::nullopt;
  const auto month = digits_of(text, 2);
  if (!month || !skip(text, "-")) return std::nullopt;
  const auto day = digits_of(text, 2);
  if (!day || !skip(text, " T")) return std::nullopt;
  const auto hour = digits_of(text, 2);
  if (!hour || !skip(text, ":")) return std::nullopt;
  const auto minute = digits_of(text, 2);
  if (!minute || !skip(text, ":")) return std::nullopt;
  const auto seconds = digits_of(text, 2);
  if (!seconds || *year < 1970 || *year > 2261 || *month < 1 || *month > 12 || *day < 1 || *day > 31 || *hour > 23 ||
      *minute > 59 || *seconds > 59) {
    return std::nullopt;
  }
  std::int64_t fraction = 0;  // nanoseconds; further digits are dropped
  if (skip(text, ".")) {
    std::int64_t unit = 100'000'000;
    while (const auto digit = digits_of(text, 1)) {
      fraction += *digit * unit;
      unit /= 10;
    }
  }
  int offset = 0;  // minutes east of UTC
  if (!skip(text, "Z") && !text.empty()) {
    const int sign = text.front() == '-' ? -1 : 1;
    if (!skip(text, "+-")) return std::nullopt;
    const auto hours = digits_of(text, 2);
    skip(text, ":");
    const auto minutes = digits_of(text, 2);
    if (!hours || !minutes) return std::nullopt;
    offset = sign * (60 * *hours + *minutes);
  }
  if (!text.empty()) return std::nullopt;
  const std::int64_t minutes = 60 * *hour + *minute - offset;
  return ((days_since_1970(*year, *month, *day) * 1440 + minutes) * 60 + *seconds) * 1'000'000'000 + fraction;
}

Workload read_csv_workload(TextLines& lines, std::string first, bool lengths_only) {
  return CsvRows(lines, lengths_only).read(std::move(first));
}

}  // namespace evictsim::traces

#include "traces/workload/workload.h"

#include <cmath>
#include <limits>
#include <utility>

#include "traces/error.h"
#include "traces/workload/workload_readers.h"

namespace evictsim::traces {
namespace {

Workload read(const std::filesystem::path& path, bool lengths_only) {
  TextLines lines(path);
  std::string first;
  if (!lines.next(first)) throw lines.file_error(ErrorCode::missing_data, "is empty: expected requests");
  const bool json = first[first.find_first_not_of(" \t")] == '{';
  Workload workload = json ? read_json_workload(lines, std::move(first), lengths_only)
                           : read_csv_workload(lines, std::move(first), lengths_only);
  workload.name = path.filename().string();
  return workload;
}

}  // namespace

const char* to_string(WorkloadFormat format) noexcept {
  switch (format) {
    case WorkloadFormat::azure:
      return "Azure";
    case WorkloadFormat::mooncake:
      return "Mooncake";
    case WorkloadFormat::qwen_bailian:
      return "Qwen-Bailian";
    case WorkloadFormat::burst_gpt:
      return "BurstGPT";
    case WorkloadFormat::llmservingsim:
      return "LLMServingSim";
    case WorkloadFormat::csv:
      break;
  }
  return "CSV";
}

std::optional<std::int64_t> to_nanoseconds(double value, double unit) {
  const double nanoseconds = value * unit;
  if (!(std::abs(nanoseconds) < static_cast<double>(std::numeric_limits<std::int64_t>::max()))) return std::nullopt;
  return std::llround(nanoseconds);
}

void WorkloadRows::arrival(std::int64_t nanoseconds, const std::string& column, std::string_view text) {
  if (nanoseconds < 0) throw lines_.error(ErrorCode::invalid_value, "times are not negative", column, text);
  if (nanoseconds < last_) {
    throw lines_.error(ErrorCode::invalid_value, "earlier than the request before: sort the requests by time", column,
                       text);
  }
  last_ = nanoseconds;
}

std::int64_t WorkloadRows::tokens(std::optional<std::int64_t> count, const std::string& column,
                                  std::string_view text) const {
  if (!count || *count < 1 || *count > most_tokens) {
    throw lines_.error(ErrorCode::invalid_value, "expected a whole number of tokens from 1 to 2^31", column, text);
  }
  return *count;
}

std::uint32_t WorkloadRows::session(std::string_view name) {
  if (name.empty()) return 0;
  return sessions_.try_emplace(std::string(name), static_cast<std::uint32_t>(sessions_.size() + 1)).first->second;
}

void WorkloadRows::add(WorkloadRequest&& request) {
  if (!first_) first_ = last_;
  if (!lengths_only_) request.arrival_seconds = static_cast<double>(last_ - *first_) / 1e9;
  workload_.requests.push_back(std::move(request));
}

Workload WorkloadRows::take(WorkloadFormat format) {
  if (workload_.requests.empty()) throw lines_.file_error(ErrorCode::missing_data, "holds no requests");
  workload_.format = format;
  return std::move(workload_);
}

Workload read_workload(const std::filesystem::path& path) { return read(path, false); }

std::vector<RequestLengths> read_lengths(const std::filesystem::path& path) {
  std::vector<RequestLengths> lengths;
  for (const WorkloadRequest& request : read(path, true).requests) {
    lengths.push_back({request.prompt_tokens, request.output_tokens});
  }
  return lengths;
}

}  // namespace evictsim::traces

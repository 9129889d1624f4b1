#include "analysis/trace_events.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "traces/error.h"
#include "traces/file_system.h"

namespace evictsim::analysis {
namespace {

/// The format's unit is a microsecond; three decimals keep every nanosecond.
std::string microseconds(std::int64_t time) { return fmt::format("{}.{:03}", time / 1000, time % 1000); }

}  // namespace

std::string json_string(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

TraceEvents::TraceEvents(const std::filesystem::path& path) : path_(path) {
  errno = 0;
  stream_.open(path, std::ios::binary | std::ios::trunc);
  if (!stream_) throw traces::system_error(errno, path, "create the file");
}

void TraceEvents::name_process(int process, const std::string& name) {
  names_.push_back(fmt::format(R"("ph":"M","name":"process_name","pid":{},"tid":0,"args":{{"name":{}}})", process,
                               json_string(name)));
}

void TraceEvents::name_track(int process, int track, const std::string& name) {
  names_.push_back(fmt::format(R"("ph":"M","name":"thread_name","pid":{},"tid":{},"args":{{"name":{}}})", process,
                               track, json_string(name)));
}

void TraceEvents::span(const std::string& name, int process, int track, std::int64_t begin, std::int64_t end,
                       const std::string& arguments) {
  events_.emplace_back(
      begin, fmt::format(R"("ph":"X","name":{},"pid":{},"tid":{},"ts":{},"dur":{},"args":{{{}}})", json_string(name),
                         process, track, microseconds(begin), microseconds(end - begin), arguments));
}

void TraceEvents::instant(const std::string& name, int process, int track, std::int64_t time,
                          const std::string& arguments) {
  events_.emplace_back(time, fmt::format(R"("ph":"i","s":"t","name":{},"pid":{},"tid":{},"ts":{},"args":{{{}}})",
                                         json_string(name), process, track, microseconds(time), arguments));
}

void TraceEvents::counter(const std::string& name, int process, std::int64_t time, const std::string& arguments) {
  events_.emplace_back(time, fmt::format(R"("ph":"C","name":{},"pid":{},"ts":{},"args":{{{}}})", json_string(name),
                                         process, microseconds(time), arguments));
}

void TraceEvents::finish() {
  std::stable_sort(events_.begin(), events_.end(),
                   [](const auto& left, const auto& right) { return left.first < right.first; });
  stream_ << "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[";
  bool first = true;
  const auto write = [&](const std::string& fields) {
    stream_ << (std::exchange(first, false) ? "\n{" : ",\n{") << fields << '}';
  };
  for (const std::string& name : names_) write(name);
  for (const auto& [time, fields] : events_) write(fields);
  stream_ << "\n]}\n";
  stream_.flush();
  if (!stream_) throw Error(ErrorCode::io_failure, "cannot be written: is the disk full?", {.file = path_.string()});
}

}  // namespace evictsim::analysis

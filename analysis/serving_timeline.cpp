#include "analysis/serving_timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <functional>
#include <numeric>
#include <queue>
#include <utility>

#include "analysis/csv.h"
#include "traces/error.h"
#include "traces/file_system.h"

namespace evictsim::analysis {
namespace {

using sim::RequestRecord;
using sim::Time;

std::string seconds(Time time) { return time == sim::not_yet ? std::string() : decimal(sim::to_seconds(time)); }

std::string between(Time begin, Time end) {
  return begin == sim::not_yet || end == sim::not_yet ? std::string() : decimal(sim::to_seconds(end - begin));
}

/// The format's unit is a microsecond; three decimals keep every nanosecond.
std::string microseconds(Time time) { return fmt::format("{}.{:03}", time / 1000, time % 1000); }

/// Tracks of a process: the cluster is process 0, a replica its number + 1. Microbatches come first, then requests.
constexpr int first_request_track = 1000;

class TraceWriter {
 public:
  explicit TraceWriter(const std::filesystem::path& path) : path_(path) {
    errno = 0;
    stream_.open(path, std::ios::binary | std::ios::trunc);
    if (!stream_) throw traces::system_error(errno, path, "create the file");
    stream_ << "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[";
  }
  /// `fields`: of one event, without braces.
  void add(const std::string& fields) {
    stream_ << (first_ ? "\n{" : ",\n{") << fields << '}';
    first_ = false;
  }
  void name(const char* what, int process, int track, const std::string& value) {
    add(fmt::format(R"("ph":"M","name":"{}","pid":{},"tid":{},"args":{{"name":"{}"}})", what, process, track, value));
  }
  void span(const std::string& name, int process, int track, Time begin, Time end, const std::string& arguments) {
    add(fmt::format(R"("ph":"X","name":"{}","pid":{},"tid":{},"ts":{},"dur":{},"args":{{{}}})", name, process, track,
                    microseconds(begin), microseconds(end - begin), arguments));
  }
  void instant(const std::string& name, int process, int track, Time time, const std::string& arguments) {
    add(fmt::format(R"("ph":"i","s":"t","name":"{}","pid":{},"tid":{},"ts":{},"args":{{{}}})", name, process, track,
                    microseconds(time), arguments));
  }
  void finish() {
    stream_ << "\n]}\n";
    stream_.flush();
    if (!stream_) throw Error(ErrorCode::io_failure, "cannot be written: is the disk full?", {.file = path_.string()});
  }

 private:
  std::filesystem::path path_;
  std::ofstream stream_;
  bool first_ = true;
};

/// A track for each request of a replica, such that requests on one track do not overlap.
std::vector<int> tracks_of(const std::vector<RequestRecord>& requests, Time end) {
  std::vector<std::size_t> order(requests.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t left, std::size_t right) {
    return requests[left].arrival < requests[right].arrival;
  });
  using Busy = std::pair<Time, int>;  // until when, and the track
  std::vector<std::priority_queue<Busy, std::vector<Busy>, std::greater<>>> busy;
  std::vector<int> used, tracks(requests.size());
  for (const std::size_t index : order) {
    const RequestRecord& request = requests[index];
    const auto replica = static_cast<std::size_t>(std::max(request.replica, 0));
    if (replica >= busy.size()) {
      busy.resize(replica + 1);
      used.resize(replica + 1);
    }
    int track = used[replica];
    if (!busy[replica].empty() && busy[replica].top().first <= request.arrival) {
      track = busy[replica].top().second;
      busy[replica].pop();
    } else {
      ++used[replica];
    }
    busy[replica].emplace(request.finish == sim::not_yet ? end : request.finish, track);
    tracks[index] = first_request_track + track;
  }
  return tracks;
}

}  // namespace

std::vector<std::string> request_column_names() {
  return {"row",
          "request",
          "arrival",
          "scheduled",
          "first_token",
          "finish",
          "ttft",
          "tpot",
          "e2e",
          "prompt_tokens",
          "output_tokens",
          "generated_tokens",
          "cached_tokens",
          "computed_tokens",
          "preemptions",
          "replica",
          "decode_replica",
          "session",
          "status"};
}

std::string request_lines(std::size_t row, const sim::ServingResult& result) {
  std::string lines;
  for (const RequestRecord& request : result.requests) {
    const bool completed = request.status == sim::RequestStatus::completed;
    const auto pace = request.seconds_per_output_token();
    const std::vector<std::string> fields = {
        std::to_string(row),
        std::to_string(request.index),
        seconds(request.arrival),
        seconds(request.scheduled),
        seconds(request.first_token),
        completed ? seconds(request.finish) : std::string(),
        between(request.arrival, request.first_token),
        pace ? decimal(*pace) : std::string(),
        completed ? between(request.arrival, request.finish) : std::string(),
        std::to_string(request.prompt_tokens),
        std::to_string(request.output_tokens),
        std::to_string(request.generated_tokens),
        std::to_string(request.cached_tokens),
        std::to_string(request.computed_tokens),
        std::to_string(request.preemptions),
        request.replica < 0 ? std::string() : std::to_string(request.replica),
        request.decode_replica < 0 ? std::string() : std::to_string(request.decode_replica),
        request.session == 0 ? std::string() : std::to_string(request.session),
        to_string(request.status)};
    lines += csv_line(fields);
  }
  return lines;
}

void TimelineObserver::write(const std::filesystem::path& path, const sim::ServingResult& result,
                             int prefill_replicas) const {
  TraceWriter writer(path);
  writer.name("process_name", 0, 0, "cluster");
  for (std::size_t index = 0; index < result.replicas.size(); ++index) {
    const int replica = static_cast<int>(index);
    writer.name("process_name", replica + 1, 0,
                prefill_replicas == 0        ? fmt::format("replica {}", replica)
                : replica < prefill_replicas ? fmt::format("prefill replica {}", replica)
                                             : fmt::format("decode replica {}", replica - prefill_replicas));
  }
  for (const sim::StepsEvent& event : steps_) {
    writer.span(event.steps == 1 ? "step" : "steps", event.replica + 1, event.microbatch, event.begin, event.end,
                fmt::format(R"("steps":{},"decode_sequences":{},"decode_entries":{},"prefill_tokens":{})", event.steps,
                            event.first.decode_sequences, event.first.decode_entries, event.first.prefill_tokens));
  }
  const std::vector<int> tracks = tracks_of(result.requests, result.end);
  for (std::size_t index = 0; index < result.requests.size(); ++index) {
    const RequestRecord& request = result.requests[index];
    const int process = std::max(request.replica, 0) + 1;
    const auto at = [&](Time time) { return time == sim::not_yet ? result.end : time; };
    const std::string about =
        fmt::format(R"("request":{},"prompt_tokens":{},"output_tokens":{},"cached_tokens":{})", request.index,
                    request.prompt_tokens, request.output_tokens, request.cached_tokens);
    if (request.status == sim::RequestStatus::too_long) {
      writer.instant("refused", process, tracks[index], request.arrival, about);
      continue;
    }
    writer.span("waiting", process, tracks[index], request.arrival, at(request.scheduled), about);
    if (request.scheduled == sim::not_yet) continue;
    writer.span("prefill", process, tracks[index], request.scheduled, at(request.first_token), about);
    if (request.first_token == sim::not_yet) continue;
    writer.span("decode", process, tracks[index], request.first_token, at(request.finish), about);
  }
  for (const Preemption& preemption : preemptions_) {
    writer.instant(preemption.swapped ? "swapped out" : "preempted", preemption.replica + 1, tracks[preemption.request],
                   preemption.time, fmt::format(R"("request":{})", preemption.request));
  }
  for (const sim::TransferEvent& transfer : transfers_) {
    writer.span(
        "transfer", transfer.from + 1, tracks[transfer.request], transfer.begin, transfer.end,
        fmt::format(R"("request":{},"to_replica":{},"bytes":{:.0f})", transfer.request, transfer.to, transfer.bytes));
  }
  for (const sim::ServingSample& sample : result.series) {
    writer.add(fmt::format(R"("ph":"C","name":"KV blocks","pid":0,"ts":{},"args":{{"used":{}}})",
                           microseconds(sample.time), sample.used_blocks));
    writer.add(fmt::format(R"("ph":"C","name":"requests","pid":0,"ts":{},"args":{{"running":{},"waiting":{}}})",
                           microseconds(sample.time), sample.running, sample.waiting));
  }
  writer.finish();
}

}  // namespace evictsim::analysis

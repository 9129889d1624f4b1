#include "analysis/serving_timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <numeric>
#include <queue>
#include <utility>

#include "analysis/csv.h"
#include "analysis/trace_events.h"

namespace evictsim::analysis {
namespace {

using sim::RequestRecord;
using sim::Time;

std::string seconds(Time time) { return time == sim::not_yet ? std::string() : decimal(sim::to_seconds(time)); }

std::string between(Time begin, Time end) {
  return begin == sim::not_yet || end == sim::not_yet ? std::string() : decimal(sim::to_seconds(end - begin));
}

/// Tracks of a process: the cluster is process 0, a replica its number + 1. Microbatches come first, then requests.
constexpr int first_request_track = 1000;

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

bool holds_tier_bytes(const sim::ServingSample& sample) {
  return std::any_of(sample.tier_bytes.begin(), sample.tier_bytes.end(), [](std::int64_t bytes) { return bytes > 0; });
}

std::string tier_bytes(const sim::ServingSample& sample) {
  std::string members;
  for (std::size_t tier = 0; tier < sample.tier_bytes.size(); ++tier) {
    members += fmt::format(R"({}"tier {}":{})", tier == 0 ? "" : ",", tier, sample.tier_bytes[tier]);
  }
  return members;
}

/// Bytes of the copies under way between every replica and its tiers, by kind.
void write_copies(TraceEvents& writer, const std::vector<sim::CopyEvent>& copies) {
  struct Change {
    Time time = 0;
    int replica = 0;
    std::size_t kind = 0;
    std::int64_t bytes = 0;
  };
  std::vector<Change> changes;
  for (const sim::CopyEvent& copy : copies) {
    const auto kind = static_cast<std::size_t>(copy.kind);
    changes.push_back({copy.begin, copy.replica, kind, copy.bytes});
    changes.push_back({copy.end, copy.replica, kind, -copy.bytes});
  }
  std::stable_sort(changes.begin(), changes.end(),
                   [](const Change& left, const Change& right) { return left.time < right.time; });
  std::map<int, std::array<std::int64_t, 4>> on_links;  // by replica; load, swap_out, swap_in, recall
  for (const Change& change : changes) {
    std::array<std::int64_t, 4>& bytes = on_links[change.replica];
    bytes[change.kind] += change.bytes;
    writer.counter(
        "bytes on links", change.replica + 1, change.time,
        fmt::format(R"("load":{},"swap out":{},"swap in":{},"recall":{})", bytes[0], bytes[1], bytes[2], bytes[3]));
  }
}

const char* name_of(sim::CopyEvent::Kind kind) {
  switch (kind) {
    case sim::CopyEvent::Kind::swap_out:
      return "swap out";
    case sim::CopyEvent::Kind::swap_in:
      return "swap in";
    case sim::CopyEvent::Kind::recall:
      return "recall";
    default:
      return "load";
  }
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
          "status",
          "loaded_tokens"};
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
        to_string(request.status),
        std::to_string(request.loaded_tokens)};
    lines += csv_line(fields);
  }
  return lines;
}

void TimelineObserver::write(const std::filesystem::path& path, const sim::ServingResult& result,
                             int prefill_replicas) const {
  TraceEvents writer(path);
  writer.name_process(0, "cluster");
  for (std::size_t index = 0; index < result.replicas.size(); ++index) {
    const int replica = static_cast<int>(index);
    writer.name_process(replica + 1, prefill_replicas == 0 ? fmt::format("replica {}", replica)
                                     : replica < prefill_replicas
                                         ? fmt::format("prefill replica {}", replica)
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
  write_copies(writer, copies_);
  const bool has_tiers = std::any_of(result.series.begin(), result.series.end(), holds_tier_bytes);
  for (const sim::CopyEvent& copy : copies_) {
    writer.span(name_of(copy.kind), copy.replica + 1, tracks[copy.request], copy.begin, copy.end,
                fmt::format(R"("request":{},"bytes":{})", copy.request, copy.bytes));
  }
  for (const sim::ServingSample& sample : result.series) {
    writer.counter("KV blocks", 0, sample.time, fmt::format(R"("used":{})", sample.used_blocks));
    writer.counter("requests", 0, sample.time,
                   fmt::format(R"("running":{},"waiting":{})", sample.running, sample.waiting));
    if (has_tiers) writer.counter("tier bytes", 0, sample.time, tier_bytes(sample));
  }
  writer.finish();
}

}  // namespace evictsim::analysis

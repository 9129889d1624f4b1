#include "analysis/recorded_sequences.h"

#include <algorithm>
#include <cmath>

#include "traces/error.h"

namespace evictsim::analysis {
namespace {

/// The score of an entry takes its key, half of its bytes.
constexpr double key_share = 0.5;

double known(double value) { return std::isnan(value) ? 0 : value; }

}  // namespace

sim::RecordedSequence recorded_sequence(const RecordedSteps& steps, PageRule rule, double bytes_per_token) {
  const RecordedCache& cache = steps.cache;
  const CacheEvent& cut = steps.events.front();
  sim::RecordedSequence sequence;
  sequence.name = cache.row.sequence;
  sequence.prompt = cut.row + 1;
  const double places = static_cast<double>(cache.layers.size()) * static_cast<double>(cache.kv_heads);
  const double recorded_bytes_per_token = places * cache.entry_bytes;
  const auto moved = [&](std::int64_t host, std::int64_t disk) {
    const double factor = bytes_per_token / recorded_bytes_per_token;
    return sim::TierBytes{std::llround(static_cast<double>(host) * factor),
                          std::llround(static_cast<double>(disk) * factor)};
  };
  sequence.written = moved(cut.written_host, cut.written_disk);
  const bool placed = cache.layers.front().placed;
  const double scored = key_share * known(cache.row[Metric::scored_entries_per_step]) / places;
  // With a placement: what the cut left in HBM, and a token more with each step, less what left the hot cache.
  double hot = static_cast<double>(cut.written_hbm) / recorded_bytes_per_token;
  for (std::size_t i = 1; i < steps.events.size(); ++i) {
    const CacheEvent& event = steps.events[i];
    sim::RecordedStep step;
    step.attended = static_cast<double>(rule == PageRule::longest ? event.longest : event.resident) / places;
    step.also_read = scored + static_cast<double>(event.scanned) / recorded_bytes_per_token;
    step.held = placed ? hot + 1 : step.attended;
    hot = std::max(0.0, hot + 1 - static_cast<double>(event.evicted) / places);
    // Rows without a query did as the row after them, and moved nothing.
    while (sequence.prompt + static_cast<std::int64_t>(sequence.steps.size()) < event.row)
      sequence.steps.push_back(step);
    step.recalled = moved(event.recalled_host, event.recalled_disk);
    step.written = moved(event.written_host, event.written_disk);
    sequence.steps.push_back(step);
  }
  if (sequence.steps.empty()) {
    throw Error(ErrorCode::missing_data, "holds no decode rows, so nothing happens after the prompt",
                {.parameter = "sequence", .value = sequence.name});
  }
  return sequence;
}

}  // namespace evictsim::analysis

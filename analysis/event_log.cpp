#include "analysis/event_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

namespace evictsim::analysis {
namespace {

using policies::Tier;

std::int64_t bytes_of(const policies::TierBytes& bytes, Tier tier) { return std::llround(bytes[tier]); }

}  // namespace

std::vector<std::string> event_column_names() {
  std::vector<std::string> names = {"trace", "sequence", "policy", "budget"};
  for (const CacheEventColumn& column : cache_event_columns) names.emplace_back(column.name);
  return names;
}

EventLog::EventLog(const std::filesystem::path& path, const sim::ReplayPlan& plan, sim::ReplayObserver& next)
    : ForwardingObserver(next), plan_(plan), file_(path, event_column_names()) {}

void EventLog::begin_sequence(const sim::SequenceStart& start) {
  start_ = start;
  points_.assign(plan_.points.size(), {});
  policy_failed_.assign(plan_.policies.size(), false);
  ForwardingObserver::begin_sequence(start);
}

void EventLog::failed(std::size_t policy, const std::string& why) {
  policy_failed_[policy] = true;
  ForwardingObserver::failed(policy, why);
}

void EventLog::prompt_cut(sim::PromptCut&& cut) {
  PointEvents& point = points_[cut.point];
  point.cut = true;
  point.events.resize(start_.decode_rows.size() + 1);
  for (std::size_t i = 0; i < start_.decode_rows.size(); ++i) point.events[i + 1].row = start_.decode_rows[i];
  CacheEvent& event = point.events.front();
  event.row = start_.prompt_length - 1;
  const std::size_t layers = start_.layers.size();
  const std::size_t per_layer = layers == 0 ? 0 : cut.kept.size() / layers;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    std::int64_t longest = 0;
    for (std::size_t head = 0; head < per_layer; ++head) {
      longest = std::max<std::int64_t>(longest, std::ssize(cut.kept[layer * per_layer + head]));
    }
    event.longest += longest * static_cast<std::int64_t>(per_layer);
  }
  for (const std::vector<std::int32_t>& kept : cut.kept) {
    event.resident += std::ssize(kept);
    event.evicted += start_.prompt_length - std::ssize(kept);
  }
  if (cut.stored) {
    event.written_hbm += bytes_of(*cut.stored, Tier::hbm);
    event.written_host += bytes_of(*cut.stored, Tier::host);
    event.written_disk += bytes_of(*cut.stored, Tier::disk);
  }
  ForwardingObserver::prompt_cut(std::move(cut));
}

void EventLog::layer_block(const sim::LayerBlock& block) {
  std::vector<CacheEvent>& events = points_[block.point].events;
  const std::size_t heads = block.resident.size() / block.rows.size();
  for (std::size_t index = 0; index < block.rows.size(); ++index) {
    const auto place = std::lower_bound(start_.decode_rows.begin(), start_.decode_rows.end(), block.rows[index]);
    CacheEvent& event = events[static_cast<std::size_t>(place - start_.decode_rows.begin()) + 1];
    const auto sum = [&](std::span<const std::int32_t> counts) {
      const auto of_row = counts.subspan(index * heads, heads);
      return std::accumulate(of_row.begin(), of_row.end(), std::int64_t{0});
    };
    event.resident += sum(block.resident);
    const auto held = std::span(block.resident).subspan(index * heads, heads);
    event.longest += static_cast<std::int64_t>(heads) * *std::max_element(held.begin(), held.end());
    event.evicted += sum(block.evicted);
    if (block.traffic.empty()) continue;
    const policies::StepTraffic& traffic = block.traffic[index];
    event.recalled_host += bytes_of(traffic.recalled, Tier::host);
    event.recalled_disk += bytes_of(traffic.recalled, Tier::disk);
    event.written_hbm += bytes_of(traffic.written, Tier::hbm);
    event.written_host += bytes_of(traffic.written, Tier::host);
    event.written_disk += bytes_of(traffic.written, Tier::disk);
    for (const Tier tier : {Tier::hbm, Tier::host, Tier::disk}) event.scanned += bytes_of(traffic.scanned, tier);
  }
  ForwardingObserver::layer_block(block);
}

std::string EventLog::lines_of(std::size_t point) const {
  const sim::ReplayPoint& replayed = plan_.points[point];
  std::string lines;
  for (const CacheEvent& event : events(point)) {
    std::vector<std::string> cells = {start_.trace_path, start_.name, plan_.policies[replayed.policy].name,
                                      replayed.budget.text()};
    for (const CacheEventColumn& column : cache_event_columns) cells.push_back(std::to_string(event.*column.member));
    lines += csv_line(cells);
  }
  return lines;
}

std::span<const CacheEvent> EventLog::events(std::size_t point) const {
  if (!points_[point].cut || policy_failed_[plan_.points[point].policy]) return {};
  return points_[point].events;
}

void EventLog::end_sequence() {
  std::string lines;
  for (std::size_t point = 0; point < points_.size(); ++point) lines += lines_of(point);
  file_.append(lines);
  ForwardingObserver::end_sequence();
}

}  // namespace evictsim::analysis

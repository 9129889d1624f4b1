#include "sim/serving/kv_tiers.h"

#include <algorithm>
#include <string>

#include "sim/memory/load_or_recompute.h"
#include "traces/error.h"

namespace evictsim::sim {
namespace {

[[noreturn]] void refuse(const std::string& what, const std::string& parameter, const std::string& value) {
  throw Error(ErrorCode::invalid_argument, what, {.parameter = parameter, .value = value});
}

}  // namespace

void check_tiers(const KvTiers& options) {
  if (options.tiers.empty() || options.tiers.size() > most_kv_tiers) {
    refuse("expected 1 to " + std::to_string(most_kv_tiers), "tiers", std::to_string(options.tiers.size()));
  }
  if (options.overlapped_layers < 1) {
    refuse("expected at least 1", "overlapped layers", std::to_string(options.overlapped_layers));
  }
  for (const TierOptions& tier : options.tiers) {
    if (tier.replacement.kind->sees_future) {
      throw Error(ErrorCode::unsupported, "serving does not know when blocks are asked for next",
                  {.parameter = "replacement in " + tier.name, .value = tier.replacement.text});
    }
    // Blocks that are handed out anew go one by one, not as parts of their prompts.
    if (options.write_down == WriteDown::back && tier.chunk_blocks != 1) {
      refuse("blocks are written back one by one: expected chunks of one block, or to write through",
             "blocks per chunk of " + tier.name, std::to_string(tier.chunk_blocks));
    }
  }
}

ReplicaTiers::ReplicaTiers(const KvTiers& options, std::int64_t block_bytes, int block_tokens, bool for_swaps)
    : options_(options),
      write_down_(for_swaps ? WriteDown::none : options.write_down),
      store_({.block_bytes = block_bytes, .tiers = options.tiers}),
      block_tokens_(block_tokens) {}

void ReplicaTiers::published(std::span<const std::uint64_t> hashes, std::size_t first) {
  if (write_down_ == WriteDown::through) store_.store(now_, {hashes}, first, no_tag);
}

void ReplicaTiers::forgotten(std::span<const std::uint64_t> hashes) {
  if (write_down_ != WriteDown::back || hashes.empty()) return;
  // The ends of prompts leave first, and are to be older than their beginnings in the tier as well.
  order_.assign(hashes.rbegin(), hashes.rend());
  store_.store(now_, {order_}, 0, no_tag);
}

/// Into segments_, as far as block `last`.
void ReplicaTiers::find(std::span<const std::uint64_t> hashes, std::size_t first, std::size_t last) {
  store_.settle(now_);
  const auto found = store_.find(hashes, first);
  segments_.assign(found.begin(), found.end());
  while (!segments_.empty() && segments_.back().first >= last) segments_.pop_back();
  if (!segments_.empty()) segments_.back().last = std::min(segments_.back().last, last);
}

std::size_t ReplicaTiers::found(std::span<const std::uint64_t> hashes, std::size_t first, std::size_t last) {
  if (!keeps_prefixes() || first >= last) return 0;
  find(hashes, first, last);
  return segments_.empty() ? 0 : segments_.back().last - first;
}

std::size_t ReplicaTiers::choose(std::span<const std::uint64_t> hashes, std::size_t first, std::size_t last,
                                 const std::function<Time(std::size_t block)>& compute_from) {
  if (!keeps_prefixes() || options_.rule == LoadRule::recompute || first >= last) return first;
  find(hashes, first, last);
  if (segments_.empty()) return first;
  if (options_.rule == LoadRule::earlier) {
    segments_.resize(load_or_recompute(store_, segments_, first, options_.overlapped_layers, compute_from).segments);
  }
  return segments_.empty() ? first : segments_.back().last;
}

void ReplicaTiers::load(std::span<const std::uint64_t> hashes, std::size_t first, std::size_t until, std::uint64_t tag,
                        bool counts) {
  for (const PrefixSegment& segment : segments_) {
    if (counts) loaded_blocks_[segment.tier] += static_cast<std::int64_t>(segment.last - segment.first);
  }
  store_.load(now_, {hashes}, first, until, tag);
}

void ReplicaTiers::write(std::int64_t bytes, std::size_t tier, std::uint64_t tag) {
  store_.transfer(now_, number(tier), Direction::down, bytes, tag);
}

void ReplicaTiers::read(std::int64_t bytes, std::size_t tier, std::uint64_t tag) {
  store_.transfer(now_, number(tier), Direction::up, bytes, tag);
}

std::optional<StoreEvent> ReplicaTiers::pop() {
  while (const auto event = store_.pop(now_)) {
    if (event->tag != no_tag) return event;
  }
  return std::nullopt;
}

std::vector<KvTierTotals> ReplicaTiers::totals() {
  store_.settle(now_);
  std::vector<KvTierTotals> all;
  for (std::uint32_t tier = 0; tier < store_.tiers(); ++tier) {
    const LinkTotals& up = store_.link(tier).totals(Direction::up);
    const LinkTotals& down = store_.link(tier).totals(Direction::down);
    all.push_back({loaded_blocks_[tier] * block_tokens_, store_.totals(tier).most_bytes, up.arrived, down.arrived,
                   up.busy, down.busy});
  }
  return all;
}

}  // namespace evictsim::sim

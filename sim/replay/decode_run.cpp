#include "sim/replay/decode_run.h"

#include <algorithm>

#include "sim/replay/selection.h"

namespace evictsim::sim {

DecodeRun::DecodeRun(const policies::Policy& policy, const policies::Budget& budget, const LayerData& layer,
                     const PromptFeatures& features, RandomKey key)
    : policy_(policy),
      budget_(budget),
      layer_(layer),
      cache_(layer, features, policy.granularity, key),
      scorer_(policy.make_scorer()) {
  scorer_->begin_decode(cache_);
  if (due(0)) {
    const policies::CutBudget cut_to = cut_budget(budget_, cache_);
    const policies::LayerScores scores = score_cache(policy_, *scorer_, cache_, cut_to);
    prompt_scores_ = scores_for_dump(scores);
    const auto places = choose(policy_, cache_, scores, cut_to);
    for (int head = 0; head < cache_.heads(); ++head) cache_.keep(head, places[static_cast<std::size_t>(head)]);
  }
  for (int head = 0; head < cache_.heads(); ++head) {
    const auto entries = cache_.entries(head);
    prompt_kept_.emplace_back(entries.begin(), entries.end());
  }
}

bool DecodeRun::due(std::int64_t decoded) const {
  return policy_.schedule->due({.decoded = decoded,
                                .row = cache_.seen() - 1,
                                .resident = cache_.longest(),
                                .entries = budget_.entries(layer_.prompt_length())});
}

void DecodeRun::cut() {
  const policies::CutBudget cut_to = cut_budget(budget_, cache_);
  const policies::LayerScores scores = score_cache(policy_, *scorer_, cache_, cut_to);
  const auto places = choose(policy_, cache_, scores, cut_to);
  for (int head = 0; head < cache_.heads(); ++head) cache_.keep(head, places[static_cast<std::size_t>(head)]);
}

void DecodeRun::advance(const Tile& tile, bool record_resident) {
  cache_.set_tile(&tile);
  resident_.clear();
  evicted_.clear();
  const auto heads = static_cast<std::size_t>(cache_.heads());
  const auto length = static_cast<std::size_t>(layer_.length());
  if (record_resident) resident_rows_.assign(heads, std::vector<std::uint8_t>(tile.rows.size() * length, 0));
  for (std::size_t r = 0; r < tile.rows.size(); ++r) {
    // Rows without a query still arrive and may be cut after.
    for (auto row = static_cast<std::int32_t>(cache_.seen()); row <= tile.rows[r]; ++row) {
      cache_.append(row);
      const bool reported = row == tile.rows[r];
      if (reported) {
        for (std::size_t head = 0; head < heads; ++head) {
          resident_.push_back(static_cast<std::int32_t>(cache_.entries(static_cast<int>(head)).size()));
        }
      }
      if (policy_.needs.decode_attention) scorer_->observe(DecodeStep(cache_, row));
      if (due(row - layer_.prompt_length() + 1)) cut();
      if (!reported) continue;
      for (std::size_t head = 0; head < heads; ++head) {
        const auto entries = cache_.entries(static_cast<int>(head));
        evicted_.push_back(resident_[r * heads + head] - static_cast<std::int32_t>(entries.size()));
        if (!record_resident) continue;
        for (const std::int32_t entry : entries) resident_rows_[head][r * length + static_cast<std::size_t>(entry)] = 1;
      }
    }
  }
  cache_.set_tile(nullptr);
}

}  // namespace evictsim::sim

#include "sim/replay/decode_run.h"

#include <algorithm>
#include <utility>

namespace evictsim::sim {

DecodeRun::DecodeRun(const policies::Policy& policy, const policies::Budget& budget, const LayerData& layer,
                     const PromptFeatures& features, RandomKey key, const policies::FutureView& future, RunPlan plan)
    : policy_(policy),
      budget_(budget),
      layer_(layer),
      key_(key),
      cache_(layer, features, policy.granularity, key),
      plan_(std::move(plan)),
      placement_(policy.places() ? policy.make_placement() : nullptr) {
  if (policy.never_cuts()) return;
  scorer_.emplace(policy, future);
  if (cuts_while_decoding(policy)) scorer_->begin_decode(cache_);
}

void DecodeRun::begin() {
  cut_if_due();
  for (int head = 0; head < cache_.heads(); ++head) {
    const auto entries = cache_.entries(head);
    prompt_kept_.emplace_back(entries.begin(), entries.end());
  }
  if (!placement_) return;
  policies::CutBudget budget = cut_budget(budget_, cache_);
  budget.cached = layer_.prompt_length();
  placed_.emplace(layer_, cache_, budget);
  if (const policies::PacketIngest* ingest = placement_->ingest()) placed_->prepare_packets(*ingest, budget_, key_);
  placement_->begin(*placed_);
  stored_ = placement_->stored(*placed_);
}

const PlannedCut* DecodeRun::planned() const {
  if (!plan_.cuts) return nullptr;
  const CutPlan& cuts = *plan_.cuts;
  // Counts of the prompt's cut hold for every later one unless all layers were cut together again.
  if (policy_.allocator->scope() == policies::AllocationScope::model_once)
    return cuts.empty() ? nullptr : &cuts.front();
  const auto found =
      std::find_if(cuts.begin(), cuts.end(), [&](const PlannedCut& cut) { return cut.seen == cache_.seen(); });
  return found == cuts.end() ? nullptr : &*found;
}

bool DecodeRun::due() const {
  if (!scorer_ || cuts_nothing(policy_, budget_, layer_)) return false;
  const bool together = plan_.cuts && policy_.allocator->scope() == policies::AllocationScope::model_each_cut;
  return together ? planned() != nullptr : policy_.schedule->due(state());
}

DecodeRun::PendingCut DecodeRun::score() {
  ++cuts_;
  for (int head = 0; head < cache_.heads(); ++head) scored_entries_ += std::ssize(cache_.entries(head));
  const policies::CutBudget budget = cut_budget(budget_, cache_);
  return {scorer_->score(cache_, budget), budget};
}

std::int64_t DecodeRun::cut_number() const {
  if (cache_.seen() == cache_.prompt_length()) return 0;
  return prompt_scores_.empty() ? cuts_ : cuts_ - 1;
}

policies::AllocationRequest DecodeRun::request(const PendingCut& pending) const {
  return allocation_request(cache_, pending.scores, pending.budget, {.cut = cut_number(), .measured = plan_.measured});
}

void DecodeRun::cut(const PendingCut& pending, const std::vector<Index>* counts) {
  if (cache_.seen() == cache_.prompt_length()) prompt_scores_ = scores_for_dump(pending.scores);
  const auto places = choose(policy_, cache_, pending.scores, pending.budget,
                             {.cut = cut_number(), .measured = plan_.measured, .planned = counts});
  for (int head = 0; head < cache_.heads(); ++head) cache_.keep(head, places[static_cast<std::size_t>(head)]);
}

void DecodeRun::cut_if_due() {
  if (!due()) return;
  const PlannedCut* plan = planned();
  cut(score(), plan == nullptr ? nullptr : &plan->counts);
  if (!placed_) return;
  placed_->refresh();
  placement_->cut(*placed_);
}

void DecodeRun::arrive(std::int32_t row, const PlacedHook& placed, Index r) {
  cache_.append(row);
  if (placed_ && r >= 0) {
    PlacedRow arranged = attend_placed(*placement_, *placed_, cache_);
    traffic_.push_back(arranged.attended.traffic);
    placed(r, arranged);
    for (int head = 0; head < cache_.heads(); ++head) {
      std::size_t most = 0;
      const policies::QueryHeads queries = cache_.query_heads(head);
      for (int h = queries.first; h < queries.first + queries.count; ++h) {
        const auto at = static_cast<std::size_t>(h);
        most = std::max(most, arranged.attended.rows[at].size() + arranged.attended.extra[at].size());
      }
      resident_.push_back(static_cast<std::int32_t>(most));
    }
  } else if (r >= 0) {
    for (int head = 0; head < cache_.heads(); ++head) {
      resident_.push_back(static_cast<std::int32_t>(cache_.entries(head).size()));
    }
  }
  if (scorer_ && policy_.needs.decode_attention) scorer_->observe(DecodeStep(cache_, row));
}

void DecodeRun::advance(const Tile& tile, Recording recording, const PlacedHook& placed) {
  cache_.set_tile(&tile);
  resident_.clear();
  evicted_.clear();
  traffic_.clear();
  stored_rows_.clear();
  const auto heads = static_cast<std::size_t>(cache_.heads());
  const auto length = static_cast<std::size_t>(layer_.length());
  if (recording.resident) resident_rows_.assign(heads, std::vector<std::uint8_t>(tile.rows.size() * length, 0));
  std::vector<std::size_t> before(heads);
  for (std::size_t r = 0; r < tile.rows.size(); ++r) {
    // Rows without a query still arrive and may be cut after.
    for (auto row = static_cast<std::int32_t>(cache_.seen()); row <= tile.rows[r]; ++row) {
      const bool reported = row == tile.rows[r];
      arrive(row, placed, reported ? static_cast<Index>(r) : -1);
      for (std::size_t head = 0; head < heads; ++head) before[head] = cache_.entries(static_cast<int>(head)).size();
      cut_if_due();
      if (!reported) continue;
      if (recording.stored && placed_) stored_rows_.push_back(placement_->stored(*placed_));
      for (std::size_t head = 0; head < heads; ++head) {
        const auto entries = cache_.entries(static_cast<int>(head));
        evicted_.push_back(static_cast<std::int32_t>(before[head] - entries.size()));
        if (!recording.resident) continue;
        for (const std::int32_t entry : entries) resident_rows_[head][r * length + static_cast<std::size_t>(entry)] = 1;
      }
    }
  }
  cache_.set_tile(nullptr);
}

}  // namespace evictsim::sim

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

#include "policies/registry.h"
#include "policies/scoring.h"
#include "policies/window_logits.h"

namespace evictsim::policies {
namespace {

/// How a head's budget is split.
struct Split {
  Index sinks, top, recent;  ///< top: of each query head
  static Split of(Index budget, Index group_size) {
    const Index sinks = budget / 4;
    const Index top = budget / (2 * group_size);
    return {sinks, top, budget - sinks - group_size * top};
  }
};

/// Adds the places of the `count` largest of `logits` that are not marked yet; of equals the older.
void mark_largest(std::span<const double> logits, Index count, std::vector<bool>& marked) {
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  for (const std::size_t place : order) {
    if (count == 0) return;
    if (marked[place]) continue;
    marked[place] = true;
    --count;
  }
}

/// First and newest tokens stay, and what the last prompt token of each query head attends to most between them. That
/// is chosen once; only the newest tokens slide.
class SageKv : public Scorer {
 public:
  explicit SageKv(const Parameters& parameters) : fill_(parameters.boolean("fill")) {}

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    const bool at_prompt = cache.seen() == cache.prompt_length();
    const bool chooses = at_prompt || heads_.empty();
    if (chooses) heads_.assign(static_cast<std::size_t>(cache.heads()), {});
    for (int head = 0; head < cache.heads(); ++head) {
      Head& own = heads_[static_cast<std::size_t>(head)];
      if (chooses) own = choose(cache, head, static_cast<Index>(budget.entries), scores);
      const auto entries = cache.entries(head);
      for (Index i = 0; i < std::ssize(entries); ++i) {
        const std::int32_t row = entries[static_cast<std::size_t>(i)];
        const bool is_frozen = row < std::ssize(own.frozen) && own.frozen[static_cast<std::size_t>(row)];
        if (row < own.sinks || row >= cache.seen() - own.recent || (is_frozen && !at_prompt)) {
          scores.protect(head, i);
        } else if (!is_frozen) {
          scores.drop(head, i);
        }
      }
    }
  }

  [[nodiscard]] bool depends_on_budget() const override { return true; }
  [[nodiscard]] Needs needs() const override { return {.window_queries = 1}; }

 private:
  struct Head {
    Index sinks = 0;
    Index recent = 0;
    std::vector<bool> frozen;  ///< by token row of the prompt
  };

  /// Chooses among the prompt's entries; those between sinks and newest are scored by the group's largest logit.
  [[nodiscard]] Head choose(const CacheView& cache, int head, Index budget, LayerScores& scores) const {
    const QueryHeads group = cache.query_heads(head);
    const Split split = Split::of(budget, group.count);
    const Index prompt = cache.prompt_length();
    Head chosen{split.sinks, split.recent, std::vector<bool>(static_cast<std::size_t>(prompt), false)};
    if (prompt <= budget) {  // nothing has to go, and the newest tokens get the room that is left
      const Index before = std::max<Index>(0, prompt - split.recent);
      std::fill_n(chosen.frozen.begin(), before, true);
      chosen.recent = budget - before;
      return chosen;
    }
    const auto entries = cache.entries(head);
    const Index first = count_before(entries, split.sinks);
    const Index count = count_before(entries, prompt - split.recent) - first;
    std::vector<bool> marked(static_cast<std::size_t>(count), false);
    std::vector<double> largest;
    for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
      const Eigen::VectorXd all = window_logits(cache, head, query_head, cache.seen() - prompt + 1).col(0);
      const std::span<const double> logits(all.data() + first, static_cast<std::size_t>(count));
      std::vector<bool> own(marked.size(), false);
      mark_largest(logits, split.top, own);
      if (largest.empty()) largest.assign(logits.begin(), logits.end());
      for (std::size_t i = 0; i < marked.size(); ++i) {
        marked[i] = marked[i] || own[i];
        largest[i] = std::max(largest[i], logits[i]);
      }
    }
    const Index missing = group.count * split.top - std::count(marked.begin(), marked.end(), true);
    if (fill_) mark_largest(largest, missing, marked);
    for (std::size_t i = 0; i < marked.size(); ++i) {
      const std::size_t place = static_cast<std::size_t>(first) + i;
      scores.of(head)[place] = static_cast<float>(largest[i]);
      chosen.frozen[static_cast<std::size_t>(entries[place])] = marked[i];
    }
    return chosen;
  }

  bool fill_;
  std::vector<Head> heads_;  ///< by cache head, from the first cut on
};

const Registration registration(
    {.name = "sagekv",
     .sentence = "Keeps first and newest tokens, and what the prompt's last token attends to most between them.",
     .citation = "SAGE-KV, arXiv 2503.08879",
     .parameters = {boolean_parameter("fill", "false",
                                      "fill up with the next best where query heads chose the same entries")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<SageKv>(parameters); }),
     .is_policy = true,
     .default_schedule = "every()"});

}  // namespace
}  // namespace evictsim::policies

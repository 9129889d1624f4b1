#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "policies/chosen_set.h"
#include "policies/pool_allocator.h"
#include "policies/registry.h"
#include "policies/seats.h"

namespace evictsim::policies {
namespace {

/// All heads compete for the budget with their unprotected entries; what is protected stays beside them.
class GlobalPool : public PoolAllocator {
 public:
  explicit GlobalPool(const Parameters& parameters)
      : PoolAllocator(parameters),
        by_layer_sum_(parameters.choice("normalise") == "layer_sum"),
        count_(parameters.choice("count")),
        floor_(parameters.integer("floor")) {}

 private:
  void share(std::span<const AllocationRequest> layers, std::span<Index> counts) const override {
    std::vector<Competitor> competitors;
    Index seats = 0;
    Index total = 0;
    int heads = 0;
    for (const AllocationRequest& layer : layers) {
      const LayerScores& scores = *layer.scores;
      const double divisor = by_layer_sum_ ? sum_of(scores) : 1.0;
      const auto entries = static_cast<Index>(layer.budget.entries);
      for (int head = 0; head < scores.heads(); ++head, ++heads) {
        const Index kept = scores.protected_count(head);
        const Index room = std::max<Index>(0, entries - kept);
        const Index safe = std::min({floor_, room, unprotected_count(scores, head)});
        counts[static_cast<std::size_t>(heads)] = std::min(kept, entries) + safe;
        seats += room - safe;
        total += std::ssize(scores.of(head));
        const std::vector<std::int32_t> ranking = rank_entries(scores, head);
        for (Index rank = kept + safe; rank < std::ssize(ranking) - scores.dropped_count(head); ++rank) {
          const auto place = static_cast<std::size_t>(ranking[static_cast<std::size_t>(rank)]);
          competitors.push_back({.is_protected = false,
                                 .score = static_cast<double>(scores.of(head)[place]) / divisor,
                                 .head = heads,
                                 .rank = rank});
        }
      }
    }
    // In entries, and while decoding, when heads hold unequal numbers, there is no share: it is heads times entries.
    const double given = layers.empty() ? 0.0 : layers.front().budget.share;
    if (count_ != "per_head" && given > 0) {
      seats = kept_of(total, std::min(given, 1.0)) - std::accumulate(counts.begin(), counts.end(), Index{0});
    }
    seat(competitors, seats, counts);
  }

  /// Of all entries together, truncated as what is kept (kvpress' count, at least 1) or as what is removed.
  [[nodiscard]] Index kept_of(Index total, double share) const {
    if (count_ == "kept") return static_cast<Index>(budget_of(share, total).entries);
    return total - static_cast<Index>(static_cast<double>(total) * (1.0 - share));
  }

  /// Of what competes; 1 where that is not positive.
  static double sum_of(const LayerScores& scores) {
    double sum = 0;
    for (int head = 0; head < scores.heads(); ++head) {
      const std::span<const float> row = scores.of(head);
      for (Index i = 0; i < std::ssize(row); ++i) {
        const bool competes = !scores.is_protected(head, i) && !scores.is_dropped(head, i);
        if (competes) sum += row[static_cast<std::size_t>(i)];
      }
    }
    return sum > 0 ? sum : 1.0;
  }

  bool by_layer_sum_;
  std::string count_;
  Index floor_;
};

const Registration registration(
    {.name = "global_pool",
     .sentence = "Lets all heads compete for the budget beside what is protected.",
     .citation = "LaProx, arXiv 2605.07234; KVzip, arXiv 2505.23416",
     .parameters = {choice_parameter("normalise", {"none", "layer_sum"},
                                     "compare scores as they are, or divided by their layer's sum"),
                    pool_scope_parameter(),
                    choice_parameter("count", {"per_head", "kept", "removed"},
                                     "entries in all: heads times the budget of one, or the share of all entries, "
                                     "truncated as what is kept or as what is removed"),
                    integer_parameter("floor", "0", 0, 1e9, "unprotected entries that every head is sure of")},
     .make = MakeAllocator([](const Parameters& parameters) { return std::make_unique<GlobalPool>(parameters); })});

}  // namespace
}  // namespace evictsim::policies

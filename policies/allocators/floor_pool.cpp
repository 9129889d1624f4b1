#include <algorithm>

#include "policies/pool_allocator.h"
#include "policies/registry.h"
#include "policies/seats.h"

namespace evictsim::policies {
namespace {

/// Heads compete for all but `floor` entries each, and then get these besides.
class FloorPool : public PoolAllocator {
 public:
  explicit FloorPool(const Parameters& parameters)
      : PoolAllocator(parameters),
        floor_(parameters.integer("floor")),
        shifted_(floor_ > 0 && parameters.choice("bounds") == "as_code") {}

 private:
  void share(std::span<const AllocationRequest> layers, std::span<Index> counts) const override {
    std::vector<Index> ends;  // of each head's entries when all lie one after another
    std::vector<Competitor> competitors;
    Index seats = 0;
    for (const AllocationRequest& layer : layers) {
      const LayerScores& scores = *layer.scores;
      for (int head = 0; head < scores.heads(); ++head) {
        const Index begin = ends.empty() ? 0 : ends.back();
        ends.push_back(begin + std::ssize(scores.of(head)));
        seats += std::max<Index>(0, static_cast<Index>(layer.budget.entries) - floor_);
        const std::vector<std::int32_t> ranking = rank_entries(scores, head);
        for (Index rank = 0; rank < std::ssize(ranking) - scores.dropped_count(head); ++rank) {
          const std::int32_t place = ranking[static_cast<std::size_t>(rank)];
          competitors.push_back({.is_protected = scores.is_protected(head, place),
                                 .score = scores.of(head)[static_cast<std::size_t>(place)],
                                 .head = counted_for(ends, begin, place),
                                 .rank = rank});
        }
      }
    }
    std::fill(counts.begin(), counts.end(), floor_);
    seat(competitors, seats, counts);
  }

  /// The head that an entry is counted for: its own, which is the last one in `ends`. The authors' code looks for the
  /// first head that ends at or behind the entry, which for a head's first entry is the one before.
  [[nodiscard]] int counted_for(const std::vector<Index>& ends, Index begin, std::int32_t place) const {
    if (!shifted_ || place > 0) return static_cast<int>(ends.size()) - 1;
    return static_cast<int>(std::lower_bound(ends.begin(), ends.end(), begin) - ends.begin());
  }

  Index floor_;
  bool shifted_;
};

const Registration registration(
    {.name = "floor_pool",
     .sentence = "Lets all heads compete for the budget but for a few entries that each is sure of.",
     .citation = "DBTrimKV, arXiv 2605.09649; ngocbh/trimkv DynamicBudgetTrimKVCache",
     .parameters = {pool_scope_parameter(),
                    integer_parameter("floor", "0", 0, 1e9, "entries that every head is sure of, out of its budget"),
                    choice_parameter("bounds", {"as_code", "clean"},
                                     "with a floor; as_code: a head's first entry, where it wins a place, wins it for "
                                     "the head before, as the authors' code counts; clean: for its own")},
     .make = MakeAllocator([](const Parameters& parameters) { return std::make_unique<FloorPool>(parameters); })});

}  // namespace
}  // namespace evictsim::policies

#include <algorithm>

#include "policies/registry.h"
#include "policies/seats.h"

namespace evictsim::policies {
namespace {

/// Heads compete for all but `floor` entries each, and then get these besides.
class FloorPool : public Allocator {
 public:
  explicit FloorPool(const Parameters& parameters)
      : pools_layers_(parameters.choice("scope") == "model"),
        floor_(parameters.integer("floor")),
        shifted_(floor_ > 0 && parameters.choice("bounds") == "as_code") {}

  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    share({&request, 1}, counts);
  }
  void allocate_model(std::span<const AllocationRequest> layers, std::span<std::vector<Index>> counts) const override {
    if (!pools_layers_) return Allocator::allocate_model(layers, counts);
    std::vector<Index> all;
    for (const AllocationRequest& layer : layers)
      all.resize(all.size() + static_cast<std::size_t>(layer.scores->heads()));
    share(layers, all);
    auto next = all.begin();
    for (std::vector<Index>& layer : counts) {
      std::copy_n(next, layer.size(), layer.begin());
      next += std::ssize(layer);
    }
  }
  [[nodiscard]] AllocationScope scope() const override {
    return pools_layers_ ? AllocationScope::model_each_cut : AllocationScope::layer;
  }

 private:
  /// Heads of all `layers`, layer by layer, share one pool.
  void share(std::span<const AllocationRequest> layers, std::span<Index> counts) const {
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

  bool pools_layers_;
  Index floor_;
  bool shifted_;
};

const Registration registration(
    {.name = "floor_pool",
     .sentence = "Lets all heads compete for the budget but for a few entries that each is sure of.",
     .citation = "DBTrimKV, arXiv 2605.09649; ngocbh/trimkv DynamicBudgetTrimKVCache",
     .parameters = {choice_parameter("scope", {"model", "layer"}, "heads of all layers, or of one layer"),
                    integer_parameter("floor", "0", 0, 1e9, "entries that every head is sure of, out of its budget"),
                    choice_parameter("bounds", {"as_code", "clean"},
                                     "with a floor; as_code: a head's first entry, where it wins a place, wins it for "
                                     "the head before, as the authors' code counts; clean: for its own")},
     .make = MakeAllocator([](const Parameters& parameters) { return std::make_unique<FloorPool>(parameters); })});

}  // namespace
}  // namespace evictsim::policies

#include <algorithm>
#include <functional>
#include <numeric>
#include <vector>

#include "policies/chosen_set.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// The best entry of every head is one composite token, the second best the next, and so on: composite tokens of all
/// layers compete, and every head of a layer keeps as many entries as the layer keeps composites.
class CompositeRanks : public Allocator {
 public:
  explicit CompositeRanks(const Parameters& parameters)
      : by_mean_(parameters.choice("head") == "mean"), floor_(parameters.integer("floor")) {}

  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    std::vector<std::vector<Index>> one(1, std::vector<Index>(counts.size()));
    allocate_model({&request, 1}, one);
    std::copy(one.front().begin(), one.front().end(), counts.begin());
  }

  void allocate_model(std::span<const AllocationRequest> layers, std::span<std::vector<Index>> counts) const override {
    std::vector<std::vector<double>> composites;
    Index total = 0;
    Index entries = 0;
    for (const AllocationRequest& layer : layers) {
      composites.push_back(composites_of(*layer.scores));
      total += std::ssize(composites.back());
      entries += static_cast<Index>(layer.budget.entries);
    }
    // In entries, and while decoding, when layers hold unequal numbers, there is no share.
    const double given = layers.front().budget.share;
    if (given > 0) entries = static_cast<Index>(budget_of(std::min(given, 1.0), total).entries);
    // The first layer is never smaller than another.
    for (const std::vector<double>& row : composites) {
      std::vector<double>& first = composites.front();
      for (std::size_t rank = 0; rank < std::min(first.size(), row.size()); ++rank) {
        first[rank] = std::max(first[rank], row[rank]);
      }
    }
    const std::vector<Index> kept = best_of(composites, entries);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      std::fill(counts[i].begin(), counts[i].end(), std::max({kept[i], Index{1}, floor_}));
    }
  }

  [[nodiscard]] AllocationScope scope() const override { return AllocationScope::model_each_cut; }

 private:
  static constexpr double floor_bonus = 1e9;

  /// Over the heads of a layer, by rank: [longest head].
  [[nodiscard]] std::vector<double> composites_of(const LayerScores& scores) const {
    std::vector<double> composites;
    std::vector<double> heads;
    for (int head = 0; head < scores.heads(); ++head) {
      std::vector<float> sorted(scores.of(head).begin(), scores.of(head).end());
      std::sort(sorted.begin(), sorted.end(), std::greater<>());
      if (sorted.size() > composites.size()) {
        composites.resize(sorted.size(), 0.0);
        heads.resize(sorted.size(), 0.0);
      }
      for (std::size_t rank = 0; rank < sorted.size(); ++rank) {
        const double score = sorted[rank];
        composites[rank] = by_mean_          ? composites[rank] + score
                           : heads[rank] > 0 ? std::max(composites[rank], score)
                                             : score;
        heads[rank] += 1;
      }
    }
    for (std::size_t rank = 0; rank < composites.size(); ++rank) {
      if (by_mean_) composites[rank] /= heads[rank];
      if (static_cast<Index>(rank) < floor_) composites[rank] += floor_bonus;
    }
    return composites;
  }

  /// How many of the best `count` composites belong to each layer; of equal ones the earlier layer's, then the better
  /// ranked.
  static std::vector<Index> best_of(const std::vector<std::vector<double>>& composites, Index count) {
    struct Composite {
      double score;
      std::size_t layer;
    };
    std::vector<Composite> all;
    for (std::size_t layer = 0; layer < composites.size(); ++layer) {
      for (const double score : composites[layer]) all.push_back({score, layer});
    }
    std::stable_sort(all.begin(), all.end(), [](const Composite& a, const Composite& b) { return a.score > b.score; });
    std::vector<Index> kept(composites.size(), 0);
    for (std::size_t i = 0; i < std::min(all.size(), static_cast<std::size_t>(count)); ++i) ++kept[all[i].layer];
    return kept;
  }

  bool by_mean_;
  Index floor_;
};

const Registration registration(
    {.name = "composite_ranks",
     .sentence =
         "Gives layers budgets by the scores of their heads' entries of equal rank; heads of a layer share one.",
     .citation = "KVCompose, arXiv 2509.05165; kvpress 0.5.5 KVComposePress (structured)",
     .parameters = {choice_parameter("head", {"mean", "max"}, "how the entries of one rank become one score"),
                    integer_parameter("floor", "0", 0, 1e9, "entries that every layer is sure of")},
     .make = MakeAllocator([](const Parameters& parameters) { return std::make_unique<CompositeRanks>(parameters); })});

}  // namespace
}  // namespace evictsim::policies

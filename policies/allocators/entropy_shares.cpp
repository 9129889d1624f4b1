#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "policies/registry.h"
#include "policies/seats.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

/// Against logarithms of and divisions by zero, as the authors' code has it.
constexpr double tiny = 1e-16;

/// Layers share the budget beside the window in proportion to the entropy of their scores; the heads of a layer then
/// compete for its part as in Ada-KV's authors' code.
class EntropyShares : public Allocator {
 public:
  explicit EntropyShares(const Parameters& parameters)
      : alpha_(parameters.real("alpha")), as_code_(parameters.choice("floor_mode") == "as_code") {}

  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    std::vector<std::vector<Index>> all = {{counts.begin(), counts.end()}};
    allocate_model({&request, 1}, all);
    std::copy(all.front().begin(), all.front().end(), counts.begin());
  }

  void allocate_model(std::span<const AllocationRequest> layers, std::span<std::vector<Index>> counts) const override {
    std::vector<double> entropies;
    double total = 0;
    for (const AllocationRequest& request : layers) {
      entropies.push_back(entropy_of(*request.scores));
      total += static_cast<double>(prefix_budget(request));
    }
    const double sum = std::accumulate(entropies.begin(), entropies.end(), 0.0);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const double share = sum > 0 ? entropies[i] / sum * total : static_cast<double>(prefix_budget(layers[i]));
      share_heads(layers[i], share, counts[i]);
    }
  }

  [[nodiscard]] AllocationScope scope() const override { return AllocationScope::model_once; }

 private:
  /// Entries per head beside the protected ones.
  static Index prefix_budget(const AllocationRequest& request) {
    const LayerScores& scores = *request.scores;
    Index window = 0;
    for (int head = 0; head < scores.heads(); ++head) window = std::max(window, scores.protected_count(head));
    return std::max<Index>(0, static_cast<Index>(request.budget.entries) - window);
  }

  /// Of the unprotected scores of all heads as one distribution, as a share of its largest value.
  static double entropy_of(const LayerScores& scores) {
    std::vector<double> values;
    for (int head = 0; head < scores.heads(); ++head) {
      const std::span<const float> row = scores.of(head);
      for (Index i = 0; i < std::ssize(row); ++i) {
        if (!scores.is_protected(head, i) && !scores.is_dropped(head, i))
          values.push_back(row[static_cast<std::size_t>(i)]);
      }
    }
    const double sum = std::accumulate(values.begin(), values.end(), tiny);
    double entropy = 0;
    for (const double value : values) entropy -= value / sum * std::log(value / sum + tiny);
    return values.size() > 1 ? entropy / std::log(static_cast<double>(values.size())) : 0.0;
  }

  /// `share`: entries per head of the layer beside the protected ones, not rounded.
  void share_heads(const AllocationRequest& request, double share, std::span<Index> counts) const {
    const LayerScores& scores = *request.scores;
    const Index prefix = prefix_budget(request);
    const auto base = static_cast<Index>(share);
    Index longest = 0;
    for (int head = 0; head < scores.heads(); ++head) longest = std::max(longest, unprotected_count(scores, head));
    if (prefix == 0 || base > longest) {  // the window alone fills the budget, or the layer keeps everything
      for (std::size_t head = 0; head < counts.size(); ++head) {
        counts[head] =
            prefix == 0 ? static_cast<Index>(request.budget.entries) : std::ssize(scores.of(static_cast<int>(head)));
      }
      return;
    }
    const double floor_base = as_code_ ? static_cast<double>(request.budget.entries) : share;
    const std::vector<Index> bases(counts.size(), base);
    const std::vector<Index> floors(counts.size(), static_cast<Index>(floor_base * alpha_));
    share_unprotected(scores, bases, floors, alpha_, false, counts);
  }

  double alpha_;
  bool as_code_;
};

const Registration registration(
    {.name = "entropy_shares",
     .sentence = "Gives layers with flatter scores more, and lets the heads of a layer compete for its part.",
     .citation = "LAVa, arXiv 2509.09754; MGDDestiny/Lava",
     .parameters = entropy_share_parameters(),
     .make = MakeAllocator([](const Parameters& parameters) { return std::make_unique<EntropyShares>(parameters); })});

}  // namespace
}  // namespace evictsim::policies

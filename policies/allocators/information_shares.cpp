#include <algorithm>
#include <numeric>
#include <vector>

#include "policies/information.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// Layers share the budget in proportion to the information of the prompt's tokens in them.
class InformationShares : public Allocator {
 public:
  explicit InformationShares(const Parameters& parameters) : information_(parameters) {}

  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    std::fill(counts.begin(), counts.end(), static_cast<Index>(request.budget.entries));
  }

  void allocate_model(std::span<const AllocationRequest> layers, std::span<std::vector<Index>> counts) const override {
    double information = 0;
    double total = 0;
    for (const AllocationRequest& request : layers) {
      information += request.measured.front();
      total += static_cast<double>(request.budget.entries);
    }
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const double share =
          information > 0 ? layers[i].measured.front() / information : 1.0 / static_cast<double>(layers.size());
      std::fill(counts[i].begin(), counts[i].end(), std::max<Index>(1, static_cast<Index>(share * total)));
    }
  }

  [[nodiscard]] AllocationScope scope() const override { return AllocationScope::model_once; }
  [[nodiscard]] std::vector<double> measure(const CacheView& prompt) const override {
    const std::vector<double> information = information_.of(prompt);
    return {std::accumulate(information.begin(), information.end(), 0.0)};
  }
  [[nodiscard]] Needs needs() const override { return information_.needs(); }

 private:
  Information information_;
};

const Registration registration(
    {.name = "information_shares",
     .sentence = "Gives layers in which the prompt's tokens carry more information more entries.",
     .citation = "the adaptive layer budget of InfoKV, arXiv 2606.26875",
     .parameters = information_parameters(),
     .make = MakeAllocator([](const Parameters& parameters) {
       return std::make_unique<InformationShares>(parameters);
     })});

}  // namespace
}  // namespace evictsim::policies

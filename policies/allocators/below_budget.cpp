#include <algorithm>

#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class BelowBudget : public Allocator {
 public:
  explicit BelowBudget(const Parameters& parameters) : drop_(parameters.real("drop")) {}
  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    const std::int64_t entries = request.budget.entries;
    const std::int64_t count = entries - static_cast<std::int64_t>(drop_ * static_cast<double>(entries));
    std::fill(counts.begin(), counts.end(), static_cast<Index>(std::max<std::int64_t>(1, count)));
  }

 private:
  double drop_;
};

const Registration registration(
    {.name = "below_budget",
     .sentence = "Cuts a share of the budget below it, so that the cache has room until the next cut.",
     .citation = "Scissorhands, arXiv 2305.17118 (drop_amount)",
     .parameters = {real_parameter("drop", "0.5", 0, 1,
                                   "share of the budget, truncated to entries, that is left free")},
     .make = MakeAllocator([](const Parameters& parameters) { return std::make_unique<BelowBudget>(parameters); })});

}  // namespace
}  // namespace evictsim::policies

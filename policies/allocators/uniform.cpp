#include <algorithm>

#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class Uniform : public Allocator {
 public:
  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    std::fill(counts.begin(), counts.end(), static_cast<Index>(request.budget.entries));
  }
};

const Registration registration({.name = "uniform",
                                 .sentence = "Gives every layer and head the same count.",
                                 .citation = "the default of kvpress 0.5.5 and of most papers",
                                 .parameters = {},
                                 .make = MakeAllocator([](const Parameters&) { return std::make_unique<Uniform>(); })});

}  // namespace
}  // namespace evictsim::policies

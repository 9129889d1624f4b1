#include <algorithm>

#include "policies/chosen_set.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class SeenShare : public Allocator {
 public:
  explicit SeenShare(const Parameters& parameters) : removed_(parameters.real("removed")) {}
  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    std::fill(counts.begin(), counts.end(), static_cast<Index>(budget_of(1.0 - removed_, request.seen).entries));
  }
  [[nodiscard]] bool ignores_budget() const override { return true; }

 private:
  double removed_;
};

const Registration registration(
    {.name = "seen_share",
     .sentence = "Keeps a share of all tokens seen so far, so that the cache grows while decoding; has no budget.",
     .citation = "kvpress 0.5.5 CompressionRatioDecodingPress",
     .parameters = {real_parameter("removed", "0.5", 0, 0.999999, "share of the tokens seen that is not kept")},
     .make = MakeAllocator([](const Parameters& parameters) { return std::make_unique<SeenShare>(parameters); })});

}  // namespace
}  // namespace evictsim::policies

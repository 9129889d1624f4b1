#include <algorithm>

#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class Threshold : public Allocator {
 public:
  explicit Threshold(const Parameters& parameters) : lowest_(static_cast<float>(parameters.real("at"))) {}

  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    const LayerScores& scores = *request.scores;
    for (int head = 0; head < scores.heads(); ++head) {
      Index& count = counts[static_cast<std::size_t>(head)];
      count = 0;
      for (Index place = 0; place < std::ssize(scores.of(head)); ++place) {
        const bool stays =
            scores.is_protected(head, place) || scores.of(head)[static_cast<std::size_t>(place)] >= lowest_;
        count += stays && !scores.is_dropped(head, place) ? 1 : 0;
      }
    }
  }
  [[nodiscard]] bool ignores_budget() const override { return true; }

 private:
  float lowest_;
};

const Registration registration(
    {.name = "threshold",
     .sentence = "Keeps what scores as much or more, at any budget: how much that is comes out.",
     .citation = "KVzap with DMS, arXiv 2601.07891; DBTrimKV's threshold, arXiv 2605.09649",
     .parameters = {real_parameter("at", "0", -1e30, 1e30, "lowest score that stays")},
     .make = MakeAllocator([](const Parameters& parameters) { return std::make_unique<Threshold>(parameters); })});

}  // namespace
}  // namespace evictsim::policies

#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class NotDropped : public Allocator {
 public:
  explicit NotDropped(const Parameters& parameters) : always_(parameters.boolean("always")) {}
  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    for (int head = 0; head < request.scores->heads(); ++head) {
      counts[static_cast<std::size_t>(head)] =
          std::ssize(request.scores->of(head)) - request.scores->dropped_count(head);
    }
  }
  [[nodiscard]] bool ignores_budget() const override { return always_; }

 private:
  bool always_;
};

const Registration registration(
    {.name = "not_dropped",
     .sentence = "Keeps whatever the scorer has not dropped: for scorers that choose the set themselves.",
     .citation =
         "kvpress 0.5.5 ChunkKVPress, ChunkPress, SimLayerKVPress, DMSPress (sets that are no top of a ranking)",
     .parameters = {boolean_parameter("always", "false", "cut at any budget: the scorer's set does not depend on it")},
     .make = MakeAllocator([](const Parameters& parameters) { return std::make_unique<NotDropped>(parameters); })});

}  // namespace
}  // namespace evictsim::policies

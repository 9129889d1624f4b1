#include <utility>

#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class SkipLayers : public OuterAllocator {
 public:
  SkipLayers(const Parameters& parameters, std::shared_ptr<const Allocator> inner)
      : OuterAllocator(std::move(inner)), first_(parameters.integer("first")) {}

 private:
  void share_heads(const AllocationRequest& request, std::span<Index> counts) const override {
    if (request.layer >= first_) return;
    for (int head = 0; head < request.scores->heads(); ++head) {
      counts[static_cast<std::size_t>(head)] = std::ssize(request.scores->of(head));
    }
  }

  std::int64_t first_;
};

const Registration registration(
    {.name = "skip_layers",
     .sentence = "Leaves the model's first layers whole, whatever the budget; the others share nothing of it.",
     .citation = "L2 norm, arXiv 2406.11430 (layers 0 and 1)",
     .parameters = {integer_parameter("first", "2", 0, 1e6, "layers left whole")},
     .make = MakeOuterAllocator([](const Parameters& parameters, std::shared_ptr<const Allocator> inner) {
       return std::make_unique<SkipLayers>(parameters, std::move(inner));
     }),
     .default_policy = "knorm()"});

}  // namespace
}  // namespace evictsim::policies

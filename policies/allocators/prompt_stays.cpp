#include <algorithm>

#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// Every head keeps the budget, and all that is protected where that is more.
class PromptStays : public Allocator {
 public:
  explicit PromptStays(const Parameters& parameters) : of_generated_(parameters.choice("budget_of") == "generated") {}

  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    const Index entries =
        static_cast<Index>(request.budget.entries) + (of_generated_ ? request.prompt_length : Index{0});
    for (int head = 0; head < request.scores->heads(); ++head) {
      counts[static_cast<std::size_t>(head)] = std::max(entries, request.scores->protected_count(head));
    }
  }

 private:
  bool of_generated_;
};

const Registration registration(
    {.name = "prompt_stays",
     .sentence = "Gives every head the same count, and whatever is protected where that is more than the count.",
     .citation = "EpiKV, arXiv 2606.26472, which never cuts the prompt",
     .parameters = {choice_parameter("budget_of", {"all", "generated"},
                                     "what the budget counts: all entries, or those beside the prompt")},
     .make = MakeAllocator([](const Parameters& parameters) { return std::make_unique<PromptStays>(parameters); })});

}  // namespace
}  // namespace evictsim::policies

#include <algorithm>

#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class PerInterval : public Allocator {
 public:
  explicit PerInterval(const Parameters& parameters)
      : keep_(parameters.integer("keep")), window_(parameters.integer("window")) {}

  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    std::fill(counts.begin(), counts.end(), static_cast<Index>(request.prompt_length + request.cut * keep_ + window_));
  }
  [[nodiscard]] bool ignores_budget() const override { return true; }

 private:
  std::int64_t keep_;
  std::int64_t window_;
};

const Registration registration(
    {.name = "per_interval",
     .sentence = "Keeps the prompt, the newest tokens and so many generated ones more with every cut, at any budget.",
     .citation = "RPC, arXiv 2505.13866; InfoKV while decoding",
     .parameters = {integer_parameter("keep", "256", 0, 1e9, "older generated tokens that each cut adds room for"),
                    integer_parameter("window", "32", 0, 1e9, "newest tokens, beside the former")},
     .make = MakeAllocator([](const Parameters& parameters) { return std::make_unique<PerInterval>(parameters); })});

}  // namespace
}  // namespace evictsim::policies

#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

class Prompt : public Protection {
 public:
  void protect(const CacheView& cache, LayerScores& scores) const override {
    for (int head = 0; head < cache.heads(); ++head) {
      scores.protect(head, 0, count_before(cache.entries(head), cache.prompt_length()));
    }
  }
};

const Registration registration({.name = "prompt",
                                 .sentence = "Protects the whole prompt, so that only generated tokens compete.",
                                 .citation = "RPC, arXiv 2505.13866",
                                 .parameters = {},
                                 .make = MakeProtection([](const Parameters&) { return std::make_unique<Prompt>(); })});

}  // namespace
}  // namespace evictsim::policies

#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

class Sinks : public Protection {
 public:
  explicit Sinks(const Parameters& parameters) : count_(parameters.integer("count")) {}
  void protect(const CacheView& cache, LayerScores& scores) const override {
    for (int head = 0; head < cache.heads(); ++head) {
      scores.protect(head, 0, count_before(cache.entries(head), count_));
    }
  }

 private:
  std::int64_t count_;
};

const Registration registration({.name = "sinks",
                                 .sentence = "Protects the first tokens of the sequence.",
                                 .citation = "StreamingLLM, arXiv 2309.17453",
                                 .parameters = {integer_parameter("count", "4", 0, 1e9, "tokens protected")},
                                 .make = MakeProtection([](const Parameters& parameters) {
                                   return std::make_unique<Sinks>(parameters);
                                 })});

}  // namespace
}  // namespace evictsim::policies

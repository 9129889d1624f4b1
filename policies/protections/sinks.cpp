#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class Sinks : public Protection {
 public:
  explicit Sinks(const Parameters& parameters) : count_(parameters.integer("count")) {}
  void protect(const CacheView& cache, LayerScores& scores) const override {
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      for (std::size_t place = 0; place < entries.size() && entries[place] < count_; ++place) {
        scores.protect(head, static_cast<Index>(place));
      }
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

#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

class Recent : public Protection {
 public:
  explicit Recent(const Parameters& parameters) : count_(parameters.integer("count")) {}
  void protect(const CacheView& cache, LayerScores& scores) const override {
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      scores.protect(head, count_before(entries, cache.seen() - count_), std::ssize(entries));
    }
  }

 private:
  std::int64_t count_;
};

const Registration registration({.name = "recent",
                                 .sentence = "Protects the last tokens seen.",
                                 .citation = "the recent window of H2O, arXiv 2306.14048",
                                 .parameters = {integer_parameter("count", "32", 0, 1e9, "tokens protected")},
                                 .make = MakeProtection([](const Parameters& parameters) {
                                   return std::make_unique<Recent>(parameters);
                                 })});

}  // namespace
}  // namespace evictsim::policies

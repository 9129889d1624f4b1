#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class KeyNorm : public Scorer {
 public:
  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    for (int head = 0; head < cache.heads(); ++head) {
      const models::MatrixView keys = cache.keys(head);
      const std::span<float> row = scores.of(head);
      for (Index i = 0; i < keys.rows(); ++i) {
        row[static_cast<std::size_t>(i)] = static_cast<float>(-keys.row(i).cast<double>().norm());
      }
    }
  }
};

const Registration registration({.name = "key_norm",
                                 .sentence = "Keeps the keys of smallest Euclidean norm.",
                                 .citation = "L2 norm, arXiv 2406.11430; kvpress 0.5.5 KnormPress",
                                 .parameters = {},
                                 .make = MakeScorer([](const Parameters&) { return std::make_unique<KeyNorm>(); })});

}  // namespace
}  // namespace evictsim::policies

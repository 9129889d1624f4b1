#include "policies/press.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class Random : public Scorer {
 public:
  explicit Random(const Parameters& parameters) : seed_(static_cast<std::uint64_t>(parameters.integer("seed"))) {}

  /// The r-th draw belongs to token row r, so that an entry keeps its score at every cut.
  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    for (int head = 0; head < cache.heads(); ++head) {
      std::mt19937_64 generator = cache.generator(head);
      if (seed_ != 0) generator.seed(generator() ^ (seed_ * 0x9e3779b97f4a7c15U));
      const auto entries = cache.entries(head);
      std::int32_t row = 0;
      for (std::size_t place = 0; place < entries.size(); ++place, ++row) {
        for (; row < entries[place]; ++row) generator();
        scores.of(head)[place] = static_cast<float>(generator() >> 40) * 0x1p-24F;
      }
    }
  }

 private:
  std::uint64_t seed_;
};

const Registration registration(
    {.name = "random",
     .sentence = "Keeps entries drawn at random: the floor that any policy should beat.",
     .citation = "kvpress 0.5.5 RandomPress",
     .parameters = {integer_parameter("seed", "0", 0, 9e15, "mixed into the replay's own seed; 0: that alone")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<Random>(parameters); }),
     .is_policy = true});

const PressRegistration press({.name = "RandomPress",
                               .part = "random",
                               .arguments = {compression_ratio_argument,
                                             {"seed", PressValue::optional_integer, "None", "seed"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 return {.name = "random", .arguments = {"seed=" + given["seed"]}};
                               }});

}  // namespace
}  // namespace evictsim::policies

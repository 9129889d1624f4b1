#include <memory>
#include <utility>
#include <vector>

#include "policies/information.h"
#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

/// Another score mixed with the softmax of the tokens' information.
class InformationMix : public OuterScorer {
 public:
  InformationMix(const Parameters& parameters, std::unique_ptr<Scorer> inner)
      : OuterScorer(std::move(inner)),
        alpha_(parameters.real("alpha")),
        divisor_(parameters.real("divisor")),
        over_sequence_(parameters.choice("over") == "sequence"),
        information_(parameters) {}

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    inner().score(cache, budget, scores);
    const std::vector<double> information = information_.of(cache);
    std::vector<double> whole = information;
    softmax(whole);
    for (int head = 0; head < cache.heads(); ++head) {
      // What the inner scorer raises above all others it means to keep.
      std::vector<std::size_t> competing;
      for (Index i = 0; i < std::ssize(scores.of(head)); ++i) {
        if (scores.is_raised(head, i)) scores.protect(head, i);
        if (!scores.is_protected(head, i)) competing.push_back(static_cast<std::size_t>(i));
      }
      std::vector<double> chosen;
      for (const std::size_t i : competing) {
        const auto row = static_cast<std::size_t>(cache.entries(head)[i]);
        chosen.push_back(over_sequence_ ? whole[row] : information[row]);
      }
      if (!over_sequence_) softmax(chosen);
      for (std::size_t i = 0; i < competing.size(); ++i) {
        float& score = scores.of(head)[competing[i]];
        score = static_cast<float>(alpha_ * static_cast<double>(score) / divisor_ + (1.0 - alpha_) * chosen[i]);
      }
    }
  }

  /// The mix is not made of attention alone.
  [[nodiscard]] std::vector<std::vector<double>> attention_of_score(const CacheView&) override { return {}; }
  [[nodiscard]] Needs needs() const override { return inner().needs().with(information_.needs()); }

 private:
  double alpha_;
  double divisor_;
  bool over_sequence_;
  Information information_;
};

std::vector<ParameterSpec> parameters() {
  std::vector<ParameterSpec> specs = {
      real_parameter("alpha", "0.9", 0, 1, "weight of the other score against the information"),
      real_parameter("divisor", "1", 1e-9, 1e9, "of the other score: how many queries it sums"),
      choice_parameter("over", {"sequence", "candidates"},
                       "softmax of the information over all tokens seen, or over those that compete")};
  const std::vector<ParameterSpec> information = information_parameters();
  specs.insert(specs.end(), information.begin(), information.end());
  return specs;
}

const Registration registration(
    {.name = "information",
     .sentence = "Mixes another score with how hard tokens were to predict and how unfinished they are in the layer.",
     .citation = "InfoKV, arXiv 2606.26875",
     .parameters = parameters(),
     .make = MakeOuterScorer([](const Parameters& given, std::unique_ptr<Scorer> inner) {
       return std::make_unique<InformationMix>(given, std::move(inner));
     })});

}  // namespace
}  // namespace evictsim::policies

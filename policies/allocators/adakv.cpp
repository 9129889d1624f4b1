#include <algorithm>
#include <utility>

#include "policies/press.h"
#include "policies/registry.h"
#include "policies/seats.h"

namespace evictsim::policies {
namespace {

class AdaKv : public OuterAllocator {
 public:
  AdaKv(const Parameters& parameters, std::shared_ptr<const Allocator> inner)
      : OuterAllocator(std::move(inner)),
        original_(parameters.choice("variant") == "original"),
        alpha_(parameters.real("alpha")),
        normalize_(parameters.boolean("normalize")) {}

 private:
  void share_heads(const AllocationRequest& request, std::span<Index> counts) const override {
    if (original_) {
      share_as_original(*request.scores, counts);
    } else {
      share_with_safeguard(*request.scores, alpha_, counts);
    }
  }

  /// The authors' code: only the prefix competes, what is protected stays beside it; the result is mixed with the
  /// uniform count, and seats beyond a head's prefix are lost.
  void share_as_original(const LayerScores& scores, std::span<Index> counts) const {
    std::vector<Index> base(counts.begin(), counts.end());
    std::vector<Index> floor;
    bool all_fit = true;
    for (int head = 0; head < scores.heads(); ++head) {
      Index& own = base[static_cast<std::size_t>(head)];
      own -= scores.protected_count(head);
      if (own <= 0) return;  // the window alone fills the budget: nothing to share
      all_fit = all_fit && own > unprotected_count(scores, head);
      floor.push_back(static_cast<Index>(static_cast<double>(own) * alpha_));
    }
    if (!all_fit) share_unprotected(scores, base, floor, alpha_, normalize_, counts);
  }

  bool original_;
  double alpha_;
  bool normalize_;
};

const Registration registration(
    {.name = "adakv",
     .sentence = "Lets the heads of a layer compete for its budget, with a share safe for each head.",
     .citation = "Ada-KV, arXiv 2407.11550; kvpress 0.5.5 AdaKVPress (library), FFY0/AdaKV (original)",
     .parameters = {choice_parameter("variant", {"library", "original"},
                                     "library: each head's best alpha of the count are safe, the rest is one pool; "
                                     "original: pooled counts times 1 - alpha, plus alpha of the count, rounded"),
                    real_parameter("alpha", "0.2", 0, 1, "share of the count that is safe for each head"),
                    boolean_parameter("normalize", "false",
                                      "original only: weigh a head by the share of its score that its best hold")},
     .make = MakeOuterAllocator([](const Parameters& parameters, std::shared_ptr<const Allocator> inner) {
       return std::make_unique<AdaKv>(parameters, std::move(inner));
     }),
     .is_policy = true,
     .default_policy = "snapkv()"});

const PressRegistration press({.name = "AdaKVPress",
                               .part = "adakv",
                               .arguments = {{"press", PressValue::press, nullptr},
                                             {"alpha_safeguard", PressValue::number, "0.20", "alpha"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 return {.name = "adakv",
                                         .arguments = {scores_of_press(given, "AdaKVPress").text(), "variant=library",
                                                       "alpha=" + given["alpha_safeguard"], "normalize=false"},
                                         .scores = false};
                               }});

}  // namespace
}  // namespace evictsim::policies

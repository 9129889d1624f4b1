#include "policies/registry.h"
#include "policies/tier_recall.h"

namespace evictsim::policies {
namespace {

const Registration registration(
    {.name = "host",
     .sentence =
         "Moves what the policy cut to host memory in pages, and recalls the pages that may matter most for every row.",
     .citation = "page digests of Quest, arXiv 2406.10774, over an offloaded cache as in ArkVale, NeurIPS 2024",
     .parameters = TierRecall::parameters(),
     .make = MakePlacement([](const Parameters& parameters) {
       return std::make_unique<TierRecall>(Tier::host, parameters);
     })});

}  // namespace
}  // namespace evictsim::policies

#include <fmt/format.h>

#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

const Registration registration(
    {.name = "lava",
     .sentence = "Keeps what the last tokens attend to, weighted by value size, with budgets for layers and heads.",
     .citation = "LAVa, arXiv 2509.09754; MGDDestiny/Lava",
     .parameters = joined(lava_score_parameters(), entropy_share_parameters()),
     .make = ExpandPreset([](const Parameters& parameters) {
       return fmt::format("compose(scorer=lava_score({}),allocator=entropy_shares({}),schedule=once())",
                          parameters.text(names_of(lava_score_parameters())),
                          parameters.text(names_of(entropy_share_parameters())));
     }),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

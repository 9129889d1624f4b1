#include <fmt/format.h>

#include "policies/learned_parameters.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  return fmt::format("future_importance({})", end_protections(parameters));
}

const Registration registration(
    {.name = "kvp_oracle",
     .sentence = "Keeps the prompt entries whose future attention, the largest of their group's heads at every row, "
                 "sums to most.",
     .citation = "the target of KVP, arXiv 2602.10238",
     .parameters = end_parameters("16"),
     .make = ExpandPreset(expand),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

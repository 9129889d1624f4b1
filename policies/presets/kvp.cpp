#include <fmt/format.h>

#include "policies/learned_parameters.h"
#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  return fmt::format("kvp_agents({},{})", parameters.text(names_of(kvp_agent_parameters())),
                     end_protections(parameters));
}

const Registration registration(
    {.name = "kvp",
     .sentence = "Keeps the entries that a network per KV head, trained on future attention, ranks highest.",
     .citation = "KVP, arXiv 2602.10238 (no code published)",
     .parameters = joined(kvp_agent_parameters(), end_parameters("16")),
     .make = ExpandPreset(expand),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

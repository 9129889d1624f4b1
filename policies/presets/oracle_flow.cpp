#include <fmt/format.h>

#include "policies/registry.h"

namespace evictsim::policies {
namespace {

const Registration registration(
    {.name = "oracle_flow",
     .sentence = "The least attention that any policy must lose which evicts for good, at this budget per head.",
     .citation =
         "exact offline optimum by min-cost flow, checked against exhaustive search (docs/policies/oracle_flow.md)",
     .parameters = {integer_parameter("steps", "1", 1, 1e9, "decode rows between two cuts")},
     .make = ExpandPreset([](const Parameters& parameters) {
       return fmt::format("flow_plan(steps={0},schedule=every(steps={0}))", parameters.word("steps"));
     }),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

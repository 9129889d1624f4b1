#include <fmt/format.h>

#include "policies/learned_parameters.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

const Registration registration({.name = "golden_eviction",
                                 .sentence = "Another name of foresightkv_oracle.",
                                 .citation = "ForesightKV, arXiv 2602.03203",
                                 .parameters = golden_eviction_parameters(),
                                 .make = ExpandPreset([](const Parameters& parameters) {
                                   return fmt::format("foresightkv_oracle({})", parameters.text());
                                 }),
                                 .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

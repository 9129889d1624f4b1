#include <fmt/format.h>

#include "policies/learned_parameters.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  return fmt::format("foresightkv_priority({},allocator=not_dropped(),schedule=blocks(size={}))", parameters.text(),
                     parameters.integer("every"));
}

const Registration registration(
    {.name = "foresightkv",
     .sentence = "Drops, block by block, what a network trained on golden eviction puts first.",
     .citation = "ForesightKV, arXiv 2602.03203; RUCAIBox/ForesightKV",
     .parameters = foresightkv_parameters(),
     .make = ExpandPreset(expand),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

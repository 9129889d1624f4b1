#include <fmt/format.h>

#include "policies/learned_parameters.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  const std::int64_t every = parameters.integer("every");
  return fmt::format("golden_utility(every={0},allocator=not_dropped(),schedule=blocks(size={0}))", every);
}

const Registration registration(
    {.name = "foresightkv_oracle",
     .sentence = "Golden eviction: in blocks, drops what every block of rows to come attends least; sees the future.",
     .citation = "ForesightKV, arXiv 2602.03203; RUCAIBox/ForesightKV supervised_training/train.py",
     .parameters = golden_eviction_parameters(),
     .make = ExpandPreset(expand),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

#include <fmt/format.h>

#include "policies/learned_parameters.h"
#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  return fmt::format("lkv_tokens({},allocator=head_embeddings({}),schedule=once(),{})",
                     parameters.text(names_of(lkv_token_parameters())), parameters.text({"weights", "floor"}),
                     end_protections(parameters));
}

std::vector<ParameterSpec> all_parameters() {
  std::vector<ParameterSpec> all = lkv_token_parameters();
  all.push_back(lkv_floor_parameter());
  return joined(std::move(all), end_parameters("32"));
}

const Registration registration(
    {.name = "lkv",
     .sentence = "Keeps the entries that a learned scorer ranks highest, as many per head as learned budgets allow.",
     .citation = "LKV-like (reconstructed), after LKV, arXiv 2605.06676; docs/policies/lkv.md",
     .parameters = all_parameters(),
     .make = ExpandPreset(expand),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

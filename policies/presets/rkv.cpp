#include <fmt/format.h>

#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  return fmt::format("attention_and_redundancy({},schedule=every(steps={},counted=sequence))",
                     parameters.text(names_of(redundancy_parameters())), parameters.word("every"));
}

const Registration registration(
    {.name = "rkv",
     .sentence = "Keeps attended keys that others do not repeat, cutting the prompt and then every so many tokens.",
     .citation = "R-KV, arXiv 2505.24133; Zefan-Cai/R-KV",
     .parameters = joined(redundancy_parameters(),
                          {integer_parameter("every", "128", 1, 1e9, "token rows t with t mod every = 0 cut")}),
     .make = ExpandPreset(expand),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

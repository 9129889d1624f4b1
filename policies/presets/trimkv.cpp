#include <fmt/format.h>

#include "policies/learned_parameters.h"
#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  return fmt::format("retention({},window={},schedule=overflow(entries={},prompt=false))",
                     parameters.text(names_of(retention_parameters("rg"))), parameters.integer("sliding_window"),
                     parameters.integer("every"));
}

std::vector<ParameterSpec> all_parameters() {
  std::vector<ParameterSpec> all = retention_parameters("rg");
  all.push_back(integer_parameter("every", "128", 1, 1e9, "entries above the budget at which a head is cut"));
  all.push_back(integer_parameter("sliding_window", "0", 0, 1e9, "newest tokens that stay"));
  return all;
}

const Registration registration(
    {.name = "trimkv",
     .sentence = "Keeps the tokens whose learned retention, beta to the power of their age, is highest.",
     .citation = "TRIM-KV, arXiv 2512.03324; ngocbh/trimkv TrimKVCache",
     .parameters = all_parameters(),
     .make = ExpandPreset(expand),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

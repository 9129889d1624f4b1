#include <fmt/format.h>

#include <string>

#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  const std::string& variant = parameters.choice("variant");
  const std::string scorer = variant == "jump"
                                 ? fmt::format("hidden_jump({}", parameters.text(names_of(hidden_jump_parameters())))
                                 : fmt::format("lag_variance(lag={},of={},recent={}", parameters.integer("lag"),
                                               variant == "lag_kv" ? "both" : "key", parameters.word("recent"));
  return fmt::format("{},allocator=prompt_stays({}),schedule=every(),protection=prompt())", scorer,
                     parameters.text({"budget_of"}));
}

const Registration registration(
    {.name = "epikv",
     .sentence = "Keeps the prompt, the newest tokens, and generated tokens at which the residual stream jumped.",
     .citation = "EpiKV, arXiv 2606.26472",
     .parameters = joined(hidden_jump_parameters(),
                          {choice_parameter("budget_of", {"all", "generated"},
                                            "what the budget counts: all entries, or those beside the prompt"),
                           choice_parameter("variant", {"jump", "lag_kv", "lag_key"},
                                            "lag_*: in place of jumps, how unevenly the channels of keys (and values) "
                                            "lie in the ranges of the chunk before"),
                           integer_parameter("lag", "128", 1, 1e6, "lag_*: tokens of a chunk")}),
     .make = ExpandPreset(expand),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

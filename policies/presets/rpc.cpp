#include <fmt/format.h>

#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  const std::int64_t every = parameters.integer("every");
  const std::int64_t window = parameters.integer("window");
  const auto keep = static_cast<std::int64_t>(static_cast<double>(every) / parameters.real("ratio"));
  const std::int64_t first_cut = parameters.choice("schedule") == "rpc" ? every + window : every;
  return fmt::format(
      "generated_attention({},allocator=per_interval(keep={},window={}),schedule=every(steps={},prompt=false,phase={})"
      ")",
      parameters.text(names_of(generated_attention_parameters())), keep, window, every, first_cut);
}

const Registration registration(
    {.name = "rpc",
     .sentence = "Keeps the prompt, and every so many generated tokens a fixed share of the attended ones.",
     .citation = "RPC, arXiv 2505.13866; jiwonsong-dev/ReasoningPathCompression",
     .parameters = joined({integer_parameter("every", "1024", 1, 1e9, "generated tokens between two cuts"),
                           real_parameter("ratio", "4", 1, 1e9, "every cut adds room for int(every / ratio) tokens"),
                           choice_parameter("schedule", {"rpc", "every"},
                                            "first cut after every + window generated tokens, as the code, or after "
                                            "every, as the paper")},
                          generated_attention_parameters()),
     .make = ExpandPreset(expand),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

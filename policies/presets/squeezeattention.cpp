#include <fmt/format.h>

#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

const Registration registration(
    {.name = "squeezeattention",
     .sentence = "Reduces the budget of the layers whose attention changes the residual stream least, for the others.",
     .citation = "SqueezeAttention, arXiv 2404.04793; hetailang/SqueezeAttention",
     .parameters = joined(squeeze_parameters(),
                          {choice_parameter("positions", {"original", "slot"},
                                            "where keys stand: where their tokens do, as the code with a sliding "
                                            "window; at their slot in the cache, as the code with StreamingLLM")}),
     .make = ExpandOuterPreset([](const Parameters& parameters, const std::string& inner) {
       const char* placement = parameters.word("positions") == "slot" ? ",placement=rerotate()" : "";
       return fmt::format("cosine_clusters({},{}{})", inner, parameters.text({"p"}), placement);
     }),
     .is_policy = true,
     .default_policy = "streaming_llm()"});

}  // namespace
}  // namespace evictsim::policies

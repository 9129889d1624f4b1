#include "policies/press.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

const Registration registration(
    {.name = "observed_attention",
     .sentence = "Keeps what received most attention per token that could attend to it.",
     .citation = "kvpress 0.5.5 ObservedAttentionPress, after H2O, arXiv 2306.14048",
     .parameters = {},
     .make = ExpandPreset([](const Parameters&) {
       return "accumulated_attention(recent=0,group=mean,normalise=lifetime,schedule=once())";
     }),
     .is_policy = true});

const PressRegistration press(
    {.name = "ObservedAttentionPress",
     .part = "observed_attention",
     .arguments = {compression_ratio_argument, {"output_attentions", PressValue::boolean, "False"}},
     .map = [](const PressArguments&) -> PolicyText { return {.name = "observed_attention"}; }});

}  // namespace
}  // namespace evictsim::policies

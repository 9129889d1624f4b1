#include "policies/press.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  return parameters.choice("variant") == "library" ? "last_attention(newest=raised,schedule=once())"
                                                   : "last_attention(newest=competes,schedule=every())";
}

const Registration registration(
    {.name = "tova",
     .sentence = "Keeps what the last token attends to, the same entries in every head.",
     .citation = "TOVA, arXiv 2401.06104 (original); kvpress 0.5.5 TOVAPress (library)",
     .parameters = {choice_parameter("variant", {"original", "library"},
                                     "original: cut at every step, the newest token competes; library: once, after the "
                                     "prompt, the last token is kept")},
     .make = ExpandPreset(expand),
     .is_policy = true});

const PressRegistration press({.name = "TOVAPress",
                               .part = "tova",
                               .arguments = {compression_ratio_argument},
                               .map = [](const PressArguments&) -> PolicyText {
                                 return {.name = "tova", .arguments = {"variant=library"}};
                               }});

}  // namespace
}  // namespace evictsim::policies

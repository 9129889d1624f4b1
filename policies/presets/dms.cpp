#include <fmt/format.h>

#include "policies/press.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

const Registration registration(
    {.name = "dms",
     .sentence = "Drops tokens of low score as they leave the newest, at any budget: how many stay comes out.",
     .citation = "DMS, arXiv 2506.05345 (the idea); KVzap, arXiv 2601.07891; kvpress 0.5.5 DMSPress",
     .parameters = {real_parameter("threshold", "-6", -1e30, 1e30, "lowest score that stays"),
                    integer_parameter("window", "128", 0, 1e9, "newest tokens, which stay whatever they score"),
                    boolean_parameter("decoding", "false", "also while decoding, at every row")},
     .make = ExpandOuterPreset([](const Parameters& parameters, const std::string& inner) {
       return fmt::format("at_arrival({},allocator=threshold(at={}),protection=recent(count={}),schedule={})", inner,
                          parameters.word("threshold"), parameters.integer("window"),
                          parameters.boolean("decoding") ? "every()" : "once()");
     }),
     .is_policy = true,
     .default_policy = "kvzap()"});

const PressRegistration press({.name = "DMSPress",
                               .part = "dms",
                               .arguments = {{"press", PressValue::press, nullptr},
                                             {"threshold", PressValue::number, nullptr, "threshold"},
                                             {"sliding_window_size", PressValue::integer, "128", "window"},
                                             {"decoding", PressValue::boolean, "False"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 return {.name = "dms",
                                         .arguments = {scores_of_press(given, "DMSPress").text(),
                                                       "threshold=" + given["threshold"],
                                                       "window=" + given["sliding_window_size"],
                                                       "decoding=" + given["decoding"]},
                                         .scores = false};
                               }});

}  // namespace
}  // namespace evictsim::policies

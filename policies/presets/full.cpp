#include "policies/registry.h"

namespace evictsim::policies {
namespace {

const Registration registration({.name = "full",
                                 .sentence = "Keeps everything: the uncut cache, whatever the budget.",
                                 .citation = "the reference of every comparison",
                                 .parameters = {},
                                 .make = ExpandPreset([](const Parameters&) { return "compose(schedule=never())"; }),
                                 .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

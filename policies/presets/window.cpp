#include "policies/registry.h"

namespace evictsim::policies {
namespace {

const Registration registration({.name = "window",
                                 .sentence = "Keeps the newest entries only, cut at every step.",
                                 .citation = "sliding-window attention, Longformer, arXiv 2004.05150",
                                 .parameters = {},
                                 .make = ExpandPreset([](const Parameters&) { return "recency(schedule=every())"; }),
                                 .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

#include <fmt/format.h>

#include "policies/registry.h"

namespace evictsim::policies {
namespace {

const Registration registration(
    {.name = "lukv_oracle",
     .sentence = "Keeps the entries of all layers and heads of greatest future utility; sees the future.",
     .citation = "LU-KV, arXiv 2602.08585, its oracle importance and greedy budgets",
     .parameters = {integer_parameter("queries", "128", 1, 1e9, "next queries looked at"),
                    integer_parameter("sinks", "4", 0, 1e9, "first tokens protected"),
                    integer_parameter("recent", "1", 0, 1e9, "last tokens protected")},
     .make = ExpandPreset([](const Parameters& parameters) {
       return fmt::format(
           "compose(scorer=future_utility({}),allocator=global_pool(normalise=none,scope=model),schedule=once(),"
           "protection=sinks(count={}),protection=recent(count={}))",
           parameters.text({"queries"}), parameters.integer("sinks"), parameters.integer("recent"));
     }),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

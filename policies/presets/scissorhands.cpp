#include <fmt/format.h>

#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  const std::string& variant = parameters.choice("variant");
  const std::int64_t history = parameters.optional_integer("history").value_or(variant == "code" ? 100 : 400);
  const std::string recent = parameters.word("recent");
  const std::string group = parameters.word("group");
  if (variant == "code") {
    return fmt::format("persistence(history={},recent={},group={},allocator=not_dropped(always=true),schedule=every())",
                       history, recent, group);
  }
  const std::string sums = fmt::format("accumulate=window,history={},recent={},group={}", history, recent, group);
  if (variant == "paper") {
    return fmt::format(
        "accumulated_attention({},signal=below_uniform,allocator=below_budget(drop={}),"
        "schedule=overflow(entries=1,prompt=false))",
        sums, parameters.word("drop"));
  }
  return fmt::format(
      "accumulated_attention({},signal={},normalise=queries,schedule=every(),protection=sinks(count={}))", sums,
      parameters.boolean("thresholding") ? "above_uniform" : "probability", parameters.word("sinks"));
}

ParameterSpec history_parameter() {
  ParameterSpec spec =
      integer_parameter("history", "auto", 1, 1e6, "queries that count; auto: 400, or 100 for variant=code");
  spec.automatic = true;
  return spec;
}

const Registration registration(
    {.name = "scissorhands",
     .sentence = "Keeps entries that stayed important to the last queries, and the newest.",
     .citation = "Scissorhands, arXiv 2305.17118 (paper); lzcemma/Scissorhands (code); AnswerDotAI/cold-compress "
                 "(cold_compress)",
     .parameters = {choice_parameter(
                        "variant", {"paper", "code", "cold_compress"},
                        "paper: a full cache loses `drop` of it, the entries least often unimportant stay; "
                        "code: no budget, what no query put into its top tenth goes; cold_compress: mean "
                        "attention, one entry per step"),
                    history_parameter(), integer_parameter("recent", "10", 0, 1e9, "newest tokens kept"),
                    real_parameter("drop", "0.5", 0, 1, "paper: share of the budget dropped when it is full"),
                    integer_parameter("sinks", "4", 0, 1e9, "cold_compress: first tokens kept"),
                    boolean_parameter("thresholding", "false",
                                      "cold_compress: count queries above uniform attention instead of averaging it"),
                    group_parameter()},
     .make = ExpandPreset(expand),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

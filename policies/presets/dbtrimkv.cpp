#include <fmt/format.h>

#include <cmath>

#include "policies/learned_parameters.h"
#include "policies/registry.h"
#include "policies/shared_parameters.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  const std::string scorer = parameters.text(names_of(retention_parameters("rg10"))) + ",window=0";
  const double threshold = parameters.real("threshold");
  if (threshold > 0) {
    if (parameters.integer("floor") > 0) {
      throw Error(ErrorCode::invalid_argument, "works with a budget; with a threshold it must be 0",
                  {.parameter = "dbtrimkv: floor", .value = std::to_string(parameters.integer("floor"))});
    }
    return fmt::format("retention({},allocator=threshold(at={}),schedule=every())", scorer, std::log(threshold));
  }
  const bool layer = parameters.choice("scope") == "layer";
  return fmt::format(
      "retention({},allocator=floor_pool({}),schedule=overflow(entries={},pooled=true,strict={},"
      "prompt=false))",
      scorer, parameters.text({"scope", "floor", "bounds"}), parameters.integer("every"), layer);
}

std::vector<ParameterSpec> all_parameters() {
  std::vector<ParameterSpec> all = retention_parameters("rg10");
  all.push_back(integer_parameter("every", "1", 1, 1e9, "entries per head above the budget at which it cuts"));
  all.push_back(choice_parameter("scope", {"model", "layer"}, "heads of all layers compete, or of one layer"));
  all.push_back(integer_parameter("floor", "0", 0, 1e9, "entries that every head is sure of"));
  all.push_back(choice_parameter("bounds", {"as_code", "clean"}, "how entries are counted, see floor_pool"));
  all.push_back(real_parameter("threshold", "0", 0, 1,
                               "0: a budget; else the retention below which a token goes, at any budget"));
  return all;
}

const Registration registration(
    {.name = "dbtrimkv",
     .sentence = "Keeps the tokens of all layers and heads whose learned retention is highest.",
     .citation = "DBTrimKV, arXiv 2605.09649; ngocbh/trimkv DynamicBudgetTrimKVCache",
     .parameters = all_parameters(),
     .make = ExpandPreset(expand),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

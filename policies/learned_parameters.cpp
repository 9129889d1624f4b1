#include "policies/learned_parameters.h"

#include <fmt/format.h>

#include "policies/layer_networks.h"

namespace evictsim::policies {

std::vector<ParameterSpec> retention_parameters(const std::string& default_gate) {
  ParameterSpec gate = choice_parameter("gate", {"rg", "rg2", "rg3", "rg10"},
                                        "rg, rg10: two or three layers on the attention's input; rg2, rg3: on keys "
                                        "and values, two layers or gated");
  gate.default_value = default_gate;
  ParameterSpec age_offset =
      integer_parameter("age_offset", "auto", 0, 1e9,
                        "age of the newest token; auto: 2, with a lookahead 3, as the authors' code; 0: TRIM-KV's "
                        "paper, 1: DBTrimKV's formula");
  age_offset.automatic = true;
  return {gate, weights_parameter(),
          integer_parameter("lookahead", "1", 1, 1e9, "steps to come whose retention is summed"), age_offset,
          boolean_parameter("knorm_alpha", "false", "add the log of the key's norm")};
}

std::vector<ParameterSpec> kvp_agent_parameters() {
  return {weights_parameter(), activation_parameter("relu (the paper does not name it)")};
}

std::vector<ParameterSpec> foresightkv_parameters() {
  return {weights_parameter(),
          integer_parameter("every", "128", 1, 1e9, "rows per block, and entries dropped with each"),
          real_parameter("decay", "0.9", 0, 1,
                         "of the decaying sum of attention with every block; 1: as the authors evaluate")};
}

std::vector<ParameterSpec> golden_eviction_parameters() {
  return {integer_parameter("every", "256", 1, 1e9, "rows per block, and entries dropped with each")};
}

std::vector<ParameterSpec> fastkvzip_parameters() {
  return {weights_parameter(), integer_parameter("sinks", "4", 0, 1e9, "first tokens that stay"),
          integer_parameter("window", "4096", 0, 1e9, "last tokens that stay, from 32000 tokens on"),
          real_parameter("window_ratio", "0.02", 0, 1, "the same below: share of the tokens")};
}

std::vector<ParameterSpec> lkv_token_parameters() {
  return {weights_parameter(), choice_parameter("input", {"kv", "z"}, "key and value, or the attention's input")};
}

ParameterSpec lkv_floor_parameter() {
  return integer_parameter("floor", "16", 0, 1e9, "entries that every head is sure of, at most the budget");
}

std::vector<ParameterSpec> end_parameters(const std::string& recent) {
  return {integer_parameter("sinks", "4", 0, 1e9, "first tokens that stay"),
          integer_parameter("recent", recent, 0, 1e9, "last tokens that stay")};
}

std::string end_protections(const Parameters& parameters) {
  return fmt::format("protection=sinks(count={}),protection=recent(count={})", parameters.integer("sinks"),
                     parameters.integer("recent"));
}

}  // namespace evictsim::policies

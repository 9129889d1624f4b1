#include "policies/shared_parameters.h"

#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

ParameterSpec kernel_of_size(const char* default_value) {
  ParameterSpec spec = kernel_parameter();
  spec.default_value = default_value;
  return spec;
}

constexpr const char* newest_help = "newest tokens kept; auto: 128, at most a quarter of the budget";

/// A count, or the part's own choice.
ParameterSpec automatic(const char* name, const char* help) {
  ParameterSpec spec = integer_parameter(name, "auto", 0, 1e9, help);
  spec.automatic = true;
  return spec;
}

}  // namespace

std::vector<ParameterSpec> accumulation_parameters() {
  ParameterSpec recent = integer_parameter("recent", "auto", 0, 1e9, "newest tokens kept; auto: recent_share");
  recent.automatic = true;
  return {recent,
          real_parameter("recent_share", "0.5", 0, 1, "share of the budget for the newest, if recent is auto"),
          choice_parameter("cut", {"plain", "flexgen"},
                           "flexgen: recent is half the budget, rounded up, and one less after the prompt"),
          group_parameter(),
          choice_parameter("normalise", {"none", "lifetime", "queries"},
                           "divide by the tokens since an entry came, itself included, or by the queries added up"),
          choice_parameter("accumulate", {"all", "window", "last", "since_window"},
                           "queries added up: all, the last `history`, the last one, or the prompt's last `history` "
                           "and all later ones"),
          integer_parameter("history", "400", 1, 1e6, "queries that window and since_window take"),
          choice_parameter("signal", {"probability", "squared", "above_uniform", "below_uniform"},
                           "what a query adds: its attention p, p^2, 1 where p >= 1 / entries, or -1 where p < 1 / "
                           "tokens"),
          kernel_of_size("1"),
          pool_parameter()};
}

std::vector<ParameterSpec> redundancy_parameters() {
  return {integer_parameter("window", "8", 1, 65536, "newest tokens, which are kept and whose attention counts"),
          kernel_of_size("7"), real_parameter("lambda", "0.07", 0, 1, "weight of attention against redundancy"),
          real_parameter("threshold", "0.5", -1, 1, "cosine above which two keys say the same"),
          choice_parameter("order", {"score", "position"},
                           "order of the cache for pooling and for the last similar key: by score after every cut, as "
                           "the code leaves it, or by position, as the paper describes")};
}

std::vector<ParameterSpec> generated_attention_parameters() {
  return {
      integer_parameter("window", "32", 1, 65536, "newest tokens, which are kept and whose attention counts"),
      kernel_of_size("7"), pool_parameter(),
      choice_parameter("group", {"all", "group"}, "mean over all query heads of the layer, or over those of a KV head"),
      choice_parameter("selectors", {"as_code", "distinct"},
                       "as_code: the newest query counts twice and the window's oldest not at all")};
}

std::vector<ParameterSpec> laprox_score_parameters() {
  return {integer_parameter("window", "32", 1, 65536, "last tokens, which are kept and whose attention counts"),
          kernel_parameter("7"),
          choice_parameter("gqa", {"mean_attn", "mean_score", "sum_eps", "exact_group"},
                           "how a group's query heads share a score: the mean attention times the mean norm; the mean "
                           "or sum of their products; the exact norm of what all lose")};
}

std::vector<ParameterSpec> lava_score_parameters() {
  return {integer_parameter("window", "32", 1, 65536, "last tokens, which are kept and whose attention counts"),
          kernel_parameter("7"), choice_parameter("pool", {"max", "avg"}, "pooling over neighbours")};
}

std::vector<ParameterSpec> entropy_share_parameters() {
  return {real_parameter("alpha", "0.2", 0, 1, "share of the count that every head has for itself"),
          choice_parameter("floor_mode", {"clean", "as_code"},
                           "that share of: the layer's part; the whole budget with the window, as the released code, "
                           "which then keeps more than the budget")};
}

std::vector<ParameterSpec> squeeze_parameters() {
  return {real_parameter("p", "0.4", 0, 1, "what the least important layers keep of their share")};
}

std::vector<ParameterSpec> streaming_head_parameters() {
  return {real_parameter("sparsity", "0.5", 0, 1, "share of the heads that stream"),
          integer_parameter("sinks", "128", 0, 1e9, "first entries that streaming heads keep"),
          integer_parameter("recent", "256", 1, 1e9, "newest entries that streaming heads keep"),
          choice_parameter("pattern", {"error", "repeated", "given"},
                           "which heads: those whose output on the prompt's last queries changes least; by kvpress' "
                           "score of mean query and key; by alphas from a file"),
          integer_parameter("queries", "64", 1, 65536, "last queries of the prompt, for error"),
          text_parameter("alphas", "for given: HDF5 file, or file:/group, with alphas [H_kv] per layer")};
}

std::vector<ParameterSpec> hidden_jump_parameters() {
  return {integer_parameter("window", "64", 2, 65536, "last tokens among which a step stands out"),
          automatic("early", "layer whose jumps speak for a token; auto: the captured one next to 10/32 of the depth"),
          automatic("late", "layer whose jumps speak against it; auto: the captured one next to 21/32 of the depth"),
          automatic("recent", newest_help),
          choice_parameter("score", {"z", "mean", "band"},
                           "z: how far the step stands out among the last ones; mean: their mean; band: z over all "
                           "captured layers around `early` and `late` where these are auto")};
}

std::vector<ParameterSpec> lag_variance_parameters() {
  return {integer_parameter("lag", "128", 1, 1e6, "tokens of a chunk; the one before gives the ranges"),
          choice_parameter("of", {"both", "key"}, "keys and values, or keys alone"), automatic("recent", newest_help)};
}

std::vector<ParameterSpec> lazy_layer_parameters() {
  return {real_parameter("threshold", "1", 0, 1,
                         "a layer is lazy when the last tokens' attention to both ends exceeds this; 1: never"),
          integer_parameter("last", "1", 1, 65536, "last tokens whose attention counts"),
          integer_parameter("recent", "1024", 2, 1e9, "newest entries looked at; recent - last are kept"),
          integer_parameter("initial", "4", 0, 1e9, "first entries kept")};
}

std::vector<ParameterSpec> critical_head_parameters() {
  return {real_parameter("alpha", "0.2", 0, 1, "share of the count that is safe for each head"),
          real_parameter("first_stage", "0.5", 0, 1, "share of a head's part that the plain scores fill"),
          real_parameter("epsilon", "1e-4", 0, 1e6, "added to the scores before they are weighted")};
}

std::vector<ParameterSpec> finch_attention_parameters() {
  return {or_auto(integer_parameter("window", "auto", 1, 65536,
                                    "last tokens, the question; auto: from the question annotated in the trace on")),
          boolean_parameter("normalize", "true", "weigh a token by how many entries it could attend to"),
          integer_parameter("chunk", "0", 0, 1e9, "entries that share a budget, the others are dropped; 0: all")};
}

std::vector<ParameterSpec> gated_chunk_parameters() {
  return {integer_parameter("chunk", "10", 2, 1e9, "tokens of a chunk"),
          integer_parameter("spiky", "4", 1, 1e9, "tokens kept of an important chunk of low entropy")};
}

std::vector<ParameterSpec> repeat_attention_parameters() {
  return {boolean_parameter("plus", "false", "KVzip+: times the norm of the value behind W_O"),
          integer_parameter("sinks", "4", 0, 1e9, "first tokens, seen by every row and kept")};
}

std::vector<ParameterSpec> second_pass_parameters() {
  return {choice_parameter("task", {"max", "mean"}, "how the rows of the second pass become one"),
          choice_parameter("group", {"mean", "max"}, "how a group's query heads become one"),
          boolean_parameter("value_norm", "false", "multiply by the norm of the value"),
          boolean_parameter("add_mean", "true", "add the mean over the layer's heads")};
}

std::vector<std::string> names_of(const std::vector<ParameterSpec>& specs) {
  std::vector<std::string> names;
  for (const ParameterSpec& spec : specs) names.push_back(spec.name);
  return names;
}

std::vector<ParameterSpec> joined(std::vector<ParameterSpec> first, const std::vector<ParameterSpec>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

}  // namespace evictsim::policies

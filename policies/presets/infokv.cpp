#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <vector>

#include "policies/information.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

std::string prefill(const Parameters& parameters) {
  const std::string layers = parameters.choice("layers") == "uniform"
                                 ? "uniform()"
                                 : fmt::format("information_shares({})", information_text(parameters));
  return fmt::format(
      "information(snapkv(variant=library,window={},kernel={},pool=avg,group=mean),alpha={},over=sequence,{},"
      "allocator={},schedule=once())",
      parameters.optional_integer("window").value_or(64), parameters.optional_integer("kernel").value_or(9),
      parameters.word("alpha"), information_text(parameters), layers);
}

std::string decode(const Parameters& parameters) {
  const std::int64_t window = parameters.optional_integer("window").value_or(32);
  const std::int64_t every = parameters.integer("every");
  const std::int64_t keep = parameters.optional_integer("keep").value_or(every / 4);
  const std::int64_t first_cut = parameters.choice("schedule") == "rpc" ? every + window : every;
  return fmt::format(
      "information(generated_attention(window={0},kernel={1},pool=avg,group=all,selectors=distinct),alpha={2},"
      "divisor={0},over=candidates,{3},allocator=per_interval(keep={4},window={0}),"
      "schedule=every(steps={5},prompt=false,phase={6}))",
      window, parameters.optional_integer("kernel").value_or(7), parameters.word("alpha"), information_text(parameters),
      keep, every, first_cut);
}

ParameterSpec automatic(ParameterSpec spec) {
  spec.automatic = true;
  return spec;
}

std::vector<ParameterSpec> parameters() {
  ParameterSpec kernel =
      automatic(integer_parameter("kernel", "auto", 1, 1023, "neighbours pooled, 1 = no pooling; auto: 9, decode: 7"));
  kernel.odd = true;
  std::vector<ParameterSpec> specs = {
      choice_parameter("mode", {"prefill", "decode"}, "cut the prompt once, or the generated tokens at intervals"),
      automatic(integer_parameter("window", "auto", 1, 65536,
                                  "newest tokens whose attention counts; always kept; auto: 64, decode: 32")),
      kernel,
      real_parameter("alpha", "0.9", 0, 1, "weight of the attention against the information"),
      choice_parameter("layers", {"uniform", "information"},
                       "prefill: the same budget for all layers, or more where the information is"),
      choice_parameter("schedule", {"every", "rpc"},
                       "decode: first cut after `every` generated tokens, or after every + window as RPC's code"),
      integer_parameter("every", "1024", 1, 1e9, "decode: generated tokens between two cuts"),
      automatic(integer_parameter("keep", "auto", 0, 1e9,
                                  "decode: generated tokens that each cut adds room for; auto: every / 4"))};
  const std::vector<ParameterSpec> information = information_parameters();
  specs.insert(specs.end(), information.begin(), information.end());
  return specs;
}

const Registration registration({.name = "infokv",
                                 .sentence = "Keeps what the newest tokens attend to and what was hard to predict.",
                                 .citation = "InfoKV, arXiv 2606.26875; its decode mode on RPC, arXiv 2505.13866",
                                 .parameters = parameters(),
                                 .make = ExpandPreset([](const Parameters& given) {
                                   return given.choice("mode") == "prefill" ? prefill(given) : decode(given);
                                 }),
                                 .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

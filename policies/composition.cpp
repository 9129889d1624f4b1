#include "policies/composition.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "policies/call.h"
#include "policies/kvpress.h"
#include "policies/names.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

constexpr int deepest_expansion = 16;
constexpr const char* uniform_name = "uniform";
constexpr const char* once_name = "once";

[[noreturn]] void fail(const Call& call, const std::string& what) {
  throw Error(ErrorCode::invalid_argument, what, {.parameter = policy_option, .value = call.name});
}

/// Reads calls as policies or parts.
class CompositionReader {
 public:
  Composition policy(const Call& call, int depth) const {
    if (depth > deepest_expansion)
      fail(call, fmt::format("nested too deep, {} levels are possible", deepest_expansion));
    if (call.quoted) fail(call, "a policy is expected");
    Composition composition = call.name == compose_name ? composed(call) : named(call, depth);
    swap_parts(call, composition, call.name == compose_name ? nullptr : &find_part(call.name));
    if (!call.placement.empty()) {
      if (composition.placement) fail(call, "has a placement already");
      composition.placement = placement(call.placement.front());
    }
    if (!cuts(composition)) composition.scorer.reset();
    return composition;
  }

 private:
  Composition named(const Call& call, int depth) const {
    refuse_press(call, depth);
    const Part& part = find_part(call.name, PartRole::policy);
    if (part.is_outer_scorer()) return rescored(part, call, depth);
    if (part.is_scorer()) {
      refuse_positional(call);
      return {.scorer = PartUse{&part, parameters(part, call)},
              .allocator = bare(uniform_name),
              .schedule = schedule(parse_call(part.default_schedule.empty() ? once_name : part.default_schedule))};
    }
    if (part.is_outer_preset()) {
      const auto& expand = std::get<ExpandOuterPreset>(part.make);
      return policy(parse_call(expand(parameters(part, call), inner_text(part, call))), depth + 1);
    }
    if (part.is_preset()) {
      refuse_positional(call);
      return policy(parse_call(std::get<ExpandPreset>(part.make)(parameters(part, call))), depth + 1);
    }
    if (part.is_allocator()) return allocated(part, call, depth);
    if (part.is_placement() && part.is_policy) return placed(part, call, depth);
    fail(call, fmt::format("is a {0}, not a policy; give it to one, as in knorm({0}={1}())", part.kind(), part.name));
  }

  /// The one policy inside `call`, or the part's default.
  Composition inner_policy(const Part& part, const Call& call, int depth) const {
    const std::vector<const Call*> nested = positional(call);
    if (nested.size() > 1) fail(call, "takes one policy");
    if (nested.empty() && part.default_policy.empty()) {
      fail(call, fmt::format("needs a policy to work on, as in {}(snapkv())", part.name));
    }
    return nested.empty() ? policy(parse_call(part.default_policy), depth + 1) : policy(*nested.front(), depth + 1);
  }

  std::string inner_text(const Part& part, const Call& call) const { return inner_policy(part, call, 0).text(); }

  /// A scorer around a policy's own.
  Composition rescored(const Part& part, const Call& call, int depth) const {
    Composition composition = inner_policy(part, call, depth);
    if (!composition.scorer) fail(call, "works on a policy that scores");
    composition.scorer = around(part, call, std::move(*composition.scorer));
    return composition;
  }

  PartUse around(const Part& part, const Call& call, PartUse inner) const {
    if (std::holds_alternative<MakeOracle>(inner.part->make)) {
      fail(call, fmt::format("works around a causal scorer, not {}", inner.part->name));
    }
    return {&part, parameters(part, call), std::make_shared<const PartUse>(std::move(inner))};
  }

  /// An allocator around a policy's own.
  Composition allocated(const Part& part, const Call& call, int depth) const {
    Composition composition = inner_policy(part, call, depth);
    PartUse outer{&part, parameters(part, call)};
    if (std::holds_alternative<MakeOuterAllocator>(part.make)) {
      outer.inner = std::make_shared<const PartUse>(std::move(composition.allocator));
    } else if (composition.allocator.part->name != uniform_name) {
      fail(call, fmt::format("cannot work around {0}; the other order may be meant, {0}({1}(...))",
                             composition.allocator.part->name, part.name));
    }
    composition.allocator = std::move(outer);
    return composition;
  }

  /// A placement that stands for a whole system: under the policy given, or its own.
  Composition placed(const Part& part, const Call& call, int depth) const {
    Composition composition = inner_policy(part, call, depth);
    if (composition.placement) fail(call, "has a placement already");
    composition.placement = PartUse{&part, parameters(part, call)};
    return composition;
  }

  Composition composed(const Call& call) const {
    refuse_positional(call);
    std::optional<PartUse> scorer;
    for (const Argument& argument : call.arguments) {
      if (!is_composition_key(argument.key)) {
        throw Error(ErrorCode::unknown_name, "takes scorer, allocator, schedule, protection, placement and budget",
                    {.parameter = compose_name, .value = argument.key});
      }
      if (argument.key != "scorer") continue;
      if (scorer) fail(call, "two scorers given, one is possible");
      scorer = scorer_part(argument.value);
    }
    Composition composition{.scorer = std::move(scorer), .allocator = bare(uniform_name), .schedule = bare(once_name)};
    Composition swapped = composition;
    swap_parts(call, swapped, nullptr);
    if (!composition.scorer && cuts(swapped)) {
      fail(call, "needs a scorer (or schedule=never(), which keeps everything)");
    }
    return composition;
  }

  /// Applies allocator=, schedule=, protection= and budget= of a policy call.
  void swap_parts(const Call& call, Composition& composition, const Part* named) const {
    std::map<std::string, int> seen;
    for (const Argument& argument : call.arguments) {
      if (argument.key == "scorer" && call.name != compose_name) {
        fail(call, "scorer= belongs into compose(scorer=...,...)");
      }
      if (argument.key == "scorer" ||
          !(named != nullptr ? swaps_part(*named, argument) : is_composition_key(argument.key))) {
        continue;
      }
      if (++seen[argument.key] > 1 && argument.key != "protection") {
        fail(call, fmt::format("{}= is given twice", argument.key));
      }
      if (argument.key == "allocator") composition.allocator = allocator(argument.value);
      if (argument.key == "schedule") composition.schedule = schedule(argument.value);
      if (argument.key == "protection") composition.protections.push_back(protection(argument.value));
      if (argument.key == "placement") {
        if (composition.placement) fail(call, "has a placement already");
        composition.placement = placement(argument.value);
      }
      if (argument.key == "budget") composition.budget = Budget::parse(argument.value.name);
    }
  }

  PartUse scorer_part(const Call& call) const {
    const Part& part = find_part(call.name, PartRole::scorer);
    if (!part.is_scorer()) fail(call, fmt::format("is a {}, not a scorer", part.kind()));
    if (!part.is_outer_scorer()) return leaf(part, call);
    refuse_parts(call);
    const std::vector<const Call*> nested = positional(call);
    if (nested.size() != 1) fail(call, "works around one scorer");
    return around(part, call, scorer_part(*nested.front()));
  }

  PartUse allocator(const Call& call) const {
    const Part& part = find_part(call.name, PartRole::allocator);
    if (!part.is_allocator()) fail(call, fmt::format("is a {}, not an allocator", part.kind()));
    const std::vector<const Call*> nested = positional(call);
    const bool outer = std::holds_alternative<MakeOuterAllocator>(part.make);
    if (nested.size() > (outer ? 1U : 0U)) fail(call, outer ? "works around one allocator" : "works around none");
    refuse_parts(call);
    PartUse use{&part, parameters(part, call)};
    if (outer) {
      use.inner = std::make_shared<const PartUse>(nested.empty() ? bare(uniform_name) : allocator(*nested.front()));
    }
    return use;
  }

  PartUse schedule(const Call& call) const {
    const Part& part = find_part(call.name, PartRole::schedule);
    if (!part.is_schedule()) fail(call, fmt::format("is a {}, not a schedule", part.kind()));
    return leaf(part, call);
  }

  PartUse protection(const Call& call) const {
    const Part& part = find_part(call.name, PartRole::protection);
    if (!part.is_protection()) fail(call, fmt::format("is a {}, not a protection", part.kind()));
    return leaf(part, call);
  }

  PartUse placement(const Call& call) const {
    const Part& part = find_part(call.name, PartRole::placement);
    if (!part.is_placement()) fail(call, fmt::format("is a {}, not a placement", part.kind()));
    return leaf(part, call);
  }

  PartUse leaf(const Part& part, const Call& call) const {
    refuse_positional(call);
    refuse_parts(call);
    return {&part, parameters(part, call)};
  }

  PartUse bare(const char* name) const {
    const Part& part = find_part(name);
    return {&part, Parameters(part.name, part.parameters, {})};
  }

  /// The part's own parameters among the named arguments.
  Parameters parameters(const Part& part, const Call& call) const {
    std::map<std::string, std::string> given;
    for (const Argument& argument : call.arguments) {
      if (argument.key.empty() || swaps_part(part, argument)) continue;
      if (argument.value.called) fail(call, fmt::format("{} takes a value, not a call", argument.key));
      if (!given.emplace(argument.key, argument.value.name).second) {
        fail(call, fmt::format("{}= is given twice", argument.key));
      }
    }
    return {part.name, part.parameters, given};
  }

  /// Whether an argument swaps a part of the policy and is not a choice of the preset's own.
  static bool swaps_part(const Part& part, const Argument& argument) {
    if (!is_composition_key(argument.key)) return false;
    return std::none_of(part.parameters.begin(), part.parameters.end(), [&](const ParameterSpec& spec) {
      return spec.name == argument.key && !argument.value.called &&
             std::find(spec.choices.begin(), spec.choices.end(), argument.value.name) != spec.choices.end();
    });
  }

  static std::vector<const Call*> positional(const Call& call) {
    std::vector<const Call*> calls;
    for (const Argument& argument : call.arguments) {
      if (argument.key.empty()) calls.push_back(&argument.value);
    }
    return calls;
  }

  /// A press among our own names.
  static void refuse_press(const Call& call, int depth) {
    const bool prefixed = call.name.starts_with(press_prefix);
    const std::string press = press_named(prefixed ? call.name.substr(press_prefix.size()) : call.name);
    if (!prefixed && press.empty()) return;
    if (depth > 0) {
      fail(call,
           fmt::format("{0} stands outside, before presses only, as in {0}AdaKVPress(SnapKVPress())", press_prefix));
    }
    fail(call, fmt::format("is a press of kvpress; write {}{}({})", press_prefix, press,
                           call.arguments.empty() ? "" : "..."));
  }

  static void refuse_positional(const Call& call) {
    const std::vector<const Call*> calls = positional(call);
    if (!calls.empty()) {
      fail(call, fmt::format("takes named parameters only (name=value); '{}' has no name", calls.front()->name));
    }
  }

  static void refuse_parts(const Call& call) {
    if (!call.placement.empty()) fail(call, "a placement (@) belongs to the whole policy");
    for (const Argument& argument : call.arguments) {
      if (is_composition_key(argument.key)) fail(call, fmt::format("{}= belongs to the whole policy", argument.key));
    }
  }

  static bool cuts(const Composition& composition) {
    const auto& make = std::get<MakeSchedule>(composition.schedule.part->make);
    const std::unique_ptr<Schedule> schedule = make(composition.schedule.parameters);
    const ScheduleState full{.resident = std::numeric_limits<std::int64_t>::max(), .entries = 1};
    return schedule->cuts_while_decoding() || schedule->due(full);
  }
};

std::shared_ptr<const Allocator> make_allocator(const PartUse& use) {
  if (const auto* outer = std::get_if<MakeOuterAllocator>(&use.part->make)) {
    return (*outer)(use.parameters, make_allocator(*use.inner));
  }
  return std::get<MakeAllocator>(use.part->make)(use.parameters);
}

std::unique_ptr<Scorer> make_scorer(const PartUse& use) {
  if (const auto* outer = std::get_if<MakeOuterScorer>(&use.part->make)) {
    return (*outer)(use.parameters, make_scorer(*use.inner));
  }
  return std::get<MakeScorer>(use.part->make)(use.parameters);
}

/// What the policy needs, given when it cuts.
Needs needs_of(const Needs& scorer, const Policy& policy) {
  Needs needs = scorer.with(policy.allocator->needs());
  const Schedule& schedule = *policy.schedule;
  const bool attends = needs.decode_attention || needs.window_queries > 0 || needs.all_queries;
  needs.decode_attention = schedule.cuts_while_decoding() && attends;
  return needs;
}

}  // namespace

std::string PartUse::text() const {
  std::vector<std::string> arguments;
  if (inner) arguments.push_back(inner->text());
  if (std::string own = parameters.text(); !own.empty()) arguments.push_back(std::move(own));
  return fmt::format("{}({})", part->name, join(arguments, ","));
}

std::string Composition::text() const {
  std::vector<std::string> arguments;
  if (scorer) arguments.push_back("scorer=" + scorer->text());
  arguments.push_back("allocator=" + allocator.text());
  arguments.push_back("schedule=" + schedule.text());
  for (const PartUse& protection : protections) arguments.push_back("protection=" + protection.text());
  if (placement) arguments.push_back("placement=" + placement->text());
  if (budget) arguments.push_back("budget=" + budget->text());
  return fmt::format("{}({})", compose_name, join(arguments, ","));
}

Composition read_composition(std::string_view text) { return CompositionReader().policy(parse_call(text), 0); }

Policy make_policy(const Composition& composition, std::string name) {
  Policy policy;
  policy.name = std::move(name);
  policy.expansion = composition.text();
  policy.allocator = make_allocator(composition.allocator);
  policy.schedule = std::get<MakeSchedule>(composition.schedule.part->make)(composition.schedule.parameters);
  for (const PartUse& use : composition.protections) {
    policy.protections.push_back(std::get<MakeProtection>(use.part->make)(use.parameters));
  }
  policy.fixed_budget = composition.budget;
  policy.terms = composition.schedule.text() + composition.allocator.text();
  if (composition.placement) {
    policy.make_placement = [make = std::get<MakePlacement>(composition.placement->part->make),
                             parameters = composition.placement->parameters] { return make(parameters); };
  }
  if (composition.scorer) {
    const PartUse& scorer = *composition.scorer;
    if (const auto* make = std::get_if<MakeOracle>(&scorer.part->make)) {
      policy.make_oracle = [make = *make, parameters = scorer.parameters] { return make(parameters); };
      const std::unique_ptr<OracleScorer> one = policy.make_oracle();
      policy.needs = needs_of(one->needs(), policy);
      policy.is_optimum = one->is_optimum();
      if (policy.schedule->cuts_while_decoding() && !one->ranks_decoded()) {
        throw Error(ErrorCode::invalid_argument, "this oracle cuts once, after the prompt: schedule=once()",
                    {.parameter = policy_option, .value = policy.name});
      }
    } else {
      // The first one lives as long as the policy, and with it what all of them share (weights).
      const std::shared_ptr<const Scorer> one = make_scorer(scorer);
      policy.make_scorer = [scorer, one] { return make_scorer(scorer); };
      policy.needs = needs_of(one->needs(), policy);
      policy.granularity = one->granularity();
    }
  }
  if (policy.granularity == Granularity::query_head) policy.terms += "query_head";
  if (composition.placement) policy.terms += composition.placement->text();
  if (policy.places()) {
    const std::unique_ptr<Placement> placement = policy.make_placement();
    policy.needs = policy.needs.with(placement->needs());
    policy.places_at_any_budget = placement->changes_whole_cache();
  }
  return policy;
}

}  // namespace evictsim::policies

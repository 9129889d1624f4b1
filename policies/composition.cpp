#include "policies/composition.h"

#include <fmt/format.h>

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
    swap_parts(call, composition);
    if (!cuts(composition)) composition.scorer.reset();
    return composition;
  }

 private:
  Composition named(const Call& call, int depth) const {
    refuse_press(call, depth);
    const Part& part = find_part(call.name, PartRole::policy);
    if (part.is_scorer()) {
      refuse_positional(call);
      return {.scorer = PartUse{&part, parameters(part, call)},
              .allocator = bare(uniform_name),
              .schedule = schedule(parse_call(part.default_schedule.empty() ? once_name : part.default_schedule))};
    }
    if (part.is_preset()) {
      refuse_positional(call);
      return policy(parse_call(std::get<ExpandPreset>(part.make)(parameters(part, call))), depth + 1);
    }
    if (part.is_allocator()) return allocated(part, call, depth);
    fail(call, fmt::format("is a {0}, not a policy; give it to one, as in knorm({0}={1}())", part.kind(), part.name));
  }

  /// An allocator around a policy's own.
  Composition allocated(const Part& part, const Call& call, int depth) const {
    const std::vector<const Call*> nested = positional(call);
    if (nested.size() > 1) fail(call, "takes one policy");
    if (nested.empty() && part.default_policy.empty()) {
      fail(call, fmt::format("needs the policy whose budget it splits, as in {}(snapkv())", part.name));
    }
    Composition composition =
        nested.empty() ? policy(parse_call(part.default_policy), depth + 1) : policy(*nested.front(), depth + 1);
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

  Composition composed(const Call& call) const {
    refuse_positional(call);
    std::optional<PartUse> scorer;
    for (const Argument& argument : call.arguments) {
      if (!is_composition_key(argument.key)) {
        throw Error(ErrorCode::unknown_name, "takes scorer, allocator, schedule, protection and budget",
                    {.parameter = compose_name, .value = argument.key});
      }
      if (argument.key != "scorer") continue;
      if (scorer) fail(call, "two scorers given, one is possible");
      const Part& part = find_part(argument.value.name, PartRole::scorer);
      if (!part.is_scorer()) fail(argument.value, fmt::format("is a {}, not a scorer", part.kind()));
      refuse_positional(argument.value);
      refuse_parts(argument.value);
      scorer = PartUse{&part, parameters(part, argument.value)};
    }
    Composition composition{.scorer = std::move(scorer), .allocator = bare(uniform_name), .schedule = bare(once_name)};
    Composition swapped = composition;
    swap_parts(call, swapped);
    if (!composition.scorer && cuts(swapped)) {
      fail(call, "needs a scorer (or schedule=never(), which keeps everything)");
    }
    return composition;
  }

  /// Applies allocator=, schedule=, protection= and budget= of a policy call.
  void swap_parts(const Call& call, Composition& composition) const {
    std::map<std::string, int> seen;
    for (const Argument& argument : call.arguments) {
      if (argument.key == "scorer" && call.name != compose_name) {
        fail(call, "scorer= belongs into compose(scorer=...,...)");
      }
      if (!is_composition_key(argument.key) || argument.key == "scorer") continue;
      if (++seen[argument.key] > 1 && argument.key != "protection") {
        fail(call, fmt::format("{}= is given twice", argument.key));
      }
      if (argument.key == "allocator") composition.allocator = allocator(argument.value);
      if (argument.key == "schedule") composition.schedule = schedule(argument.value);
      if (argument.key == "protection") composition.protections.push_back(protection(argument.value));
      if (argument.key == "budget") composition.budget = Budget::parse(argument.value.name);
    }
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
      if (argument.key.empty() || is_composition_key(argument.key)) continue;
      if (argument.value.called) fail(call, fmt::format("{} takes a value, not a call", argument.key));
      if (!given.emplace(argument.key, argument.value.name).second) {
        fail(call, fmt::format("{}= is given twice", argument.key));
      }
    }
    return {part.name, part.parameters, given};
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

/// What the policy needs, given when it cuts.
Needs needs_of(const Needs& scorer, const Schedule& schedule) {
  Needs needs = scorer;
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
  if (!composition.scorer) return policy;

  const Parameters& parameters = composition.scorer->parameters;
  if (const auto* make = std::get_if<MakeScorer>(&composition.scorer->part->make)) {
    policy.make_scorer = [make = *make, parameters] { return make(parameters); };
    const std::unique_ptr<Scorer> scorer = policy.make_scorer();
    policy.needs = needs_of(scorer->needs(), *policy.schedule);
    policy.granularity = scorer->granularity();
  } else {
    if (policy.schedule->cuts_while_decoding()) {
      throw Error(ErrorCode::invalid_argument, "an oracle cuts once, after the prompt: schedule=once()",
                  {.parameter = policy_option, .value = policy.name});
    }
    const auto& oracle = std::get<MakeOracle>(composition.scorer->part->make);
    policy.make_oracle = [oracle, parameters] { return oracle(parameters); };
    policy.needs = needs_of(policy.make_oracle()->needs(), *policy.schedule);
  }
  return policy;
}

}  // namespace evictsim::policies

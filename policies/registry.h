#pragma once
/// \file
/// The registry of parts and presets. A part registers itself from its own file with one static Registration; names are
/// unique over all kinds, and registering a name twice throws.

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "policies/allocator.h"
#include "policies/parameters.h"
#include "policies/placement.h"
#include "policies/protection.h"
#include "policies/schedule.h"
#include "policies/scorer.h"

namespace evictsim::policies {

using MakeScorer = std::function<std::unique_ptr<Scorer>(const Parameters&)>;
/// A scorer around another; never null.
using MakeOuterScorer = std::function<std::unique_ptr<Scorer>(const Parameters&, std::unique_ptr<Scorer> inner)>;
using MakeOracle = std::function<std::unique_ptr<OracleScorer>(const Parameters&)>;
using MakeAllocator = std::function<std::unique_ptr<Allocator>(const Parameters&)>;
/// An allocator around another: `inner` splits the budget over layers before this one does over heads; never null.
using MakeOuterAllocator =
    std::function<std::unique_ptr<Allocator>(const Parameters&, std::shared_ptr<const Allocator> inner)>;
using MakeSchedule = std::function<std::unique_ptr<Schedule>(const Parameters&)>;
using MakeProtection = std::function<std::unique_ptr<Protection>(const Parameters&)>;
using MakePlacement = std::function<std::unique_ptr<Placement>(const Parameters&)>;
/// A preset answers with the text of a policy made of other parts or presets.
using ExpandPreset = std::function<std::string(const Parameters&)>;
/// The same around a policy given as text, "snapkv(window=32)".
using ExpandOuterPreset = std::function<std::string(const Parameters&, const std::string& inner)>;

/// What a registered name is. The alternative held by `make` says its kind.
struct Part {
  std::string name;
  std::string sentence;  ///< what it does, one sentence
  std::string citation;  ///< paper or code it follows
  std::vector<ParameterSpec> parameters;
  std::variant<MakeScorer, MakeOuterScorer, MakeOracle, MakeAllocator, MakeOuterAllocator, MakeSchedule, MakeProtection,
               MakePlacement, ExpandPreset, ExpandOuterPreset>
      make;
  /// Listed by `evictsim policies` and replayed by `--policy all`: a name that stands for a whole policy.
  bool is_policy = false;
  /// Schedule of a scorer used alone as a policy; empty: `once`.
  std::string default_schedule = {};
  /// Policy that an allocator, outer scorer, outer preset or placement named as a policy (`is_policy`) works on when
  /// none is given; empty: one must be given.
  std::string default_policy = {};

  [[nodiscard]] const char* kind()
      const;  ///< "scorer", "oracle", "allocator", "schedule", "protection", "placement" or "preset"
  [[nodiscard]] bool is_scorer() const {
    return std::holds_alternative<MakeScorer>(make) || std::holds_alternative<MakeOracle>(make) || is_outer_scorer();
  }
  [[nodiscard]] bool is_outer_scorer() const { return std::holds_alternative<MakeOuterScorer>(make); }
  [[nodiscard]] bool is_allocator() const {
    return std::holds_alternative<MakeAllocator>(make) || std::holds_alternative<MakeOuterAllocator>(make);
  }
  [[nodiscard]] bool is_schedule() const { return std::holds_alternative<MakeSchedule>(make); }
  [[nodiscard]] bool is_protection() const { return std::holds_alternative<MakeProtection>(make); }
  [[nodiscard]] bool is_placement() const { return std::holds_alternative<MakePlacement>(make); }
  [[nodiscard]] bool is_outer_preset() const { return std::holds_alternative<ExpandOuterPreset>(make); }
  [[nodiscard]] bool is_preset() const { return std::holds_alternative<ExpandPreset>(make) || is_outer_preset(); }
};

/// Registers `part` at program start. Throws std::logic_error for a name taken (naming both parts), a name the grammar
/// cannot read, and parameters that clash with `scorer`, `allocator`, `schedule`, `protection`, `placement` or
/// `budget` (a preset may take one of these as a choice; its words then come before parts of that name).
struct Registration {
  explicit Registration(Part part);
};

/// Runs `load`, during which a Registration or PressRegistration that cannot be made is noted instead of throwing,
/// since nothing may be thrown through the loader of a shared object. Answers with what was noted.
std::vector<std::string> refused_registrations(const std::function<void()>& load);
/// Throws std::logic_error(why), or notes it for refused_registrations.
void refuse_registration(const std::string& why);

/// All parts, sorted by name.
std::vector<const Part*> registered_parts();

/// What a name stands for where it is written.
enum class PartRole { any, policy, scorer, allocator, schedule, protection, placement };

/// The part of that name, of whatever kind. Throws Error(unknown_name) with the nearest names that fit `role`.
const Part& find_part(std::string_view name, PartRole role = PartRole::any);

}  // namespace evictsim::policies

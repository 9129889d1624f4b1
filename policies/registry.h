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
#include "policies/protection.h"
#include "policies/schedule.h"
#include "policies/scorer.h"

namespace evictsim::policies {

using MakeScorer = std::function<std::unique_ptr<Scorer>(const Parameters&)>;
using MakeOracle = std::function<std::unique_ptr<OracleScorer>(const Parameters&)>;
using MakeAllocator = std::function<std::unique_ptr<Allocator>(const Parameters&)>;
/// An allocator around another: `inner` splits the budget over layers before this one does over heads; never null.
using MakeOuterAllocator =
    std::function<std::unique_ptr<Allocator>(const Parameters&, std::shared_ptr<const Allocator> inner)>;
using MakeSchedule = std::function<std::unique_ptr<Schedule>(const Parameters&)>;
using MakeProtection = std::function<std::unique_ptr<Protection>(const Parameters&)>;
/// A preset answers with the text of a policy made of other parts or presets.
using ExpandPreset = std::function<std::string(const Parameters&)>;

/// What a registered name is. The alternative held by `make` says its kind.
struct Part {
  std::string name;
  std::string sentence;  ///< what it does, one sentence
  std::string citation;  ///< paper or code it follows
  std::vector<ParameterSpec> parameters;
  std::variant<MakeScorer, MakeOracle, MakeAllocator, MakeOuterAllocator, MakeSchedule, MakeProtection, ExpandPreset>
      make;
  /// Listed by `evictsim policies` and replayed by `--policy all`: a name that stands for a whole policy.
  bool is_policy = false;
  /// Schedule of a scorer used alone as a policy; empty: `once`.
  std::string default_schedule = {};
  /// Policy that an allocator works on when none is given; empty: one must be given.
  std::string default_policy = {};

  [[nodiscard]] const char* kind() const;  ///< "scorer", "oracle", "allocator", "schedule", "protection" or "preset"
  [[nodiscard]] bool is_scorer() const {
    return std::holds_alternative<MakeScorer>(make) || std::holds_alternative<MakeOracle>(make);
  }
  [[nodiscard]] bool is_allocator() const {
    return std::holds_alternative<MakeAllocator>(make) || std::holds_alternative<MakeOuterAllocator>(make);
  }
  [[nodiscard]] bool is_schedule() const { return std::holds_alternative<MakeSchedule>(make); }
  [[nodiscard]] bool is_protection() const { return std::holds_alternative<MakeProtection>(make); }
  [[nodiscard]] bool is_preset() const { return std::holds_alternative<ExpandPreset>(make); }
};

/// Registers `part` at program start. Throws std::logic_error for a name taken (naming both parts), a name the grammar
/// cannot read, and parameters that clash with `scorer`, `allocator`, `schedule`, `protection` or `budget`.
struct Registration {
  explicit Registration(Part part);
};

/// All parts, sorted by name.
std::vector<const Part*> registered_parts();

/// What a name stands for where it is written.
enum class PartRole { any, policy, scorer, allocator, schedule, protection };

/// The part of that name, of whatever kind. Throws Error(unknown_name) with the nearest names that fit `role`.
const Part& find_part(std::string_view name, PartRole role = PartRole::any);

}  // namespace evictsim::policies

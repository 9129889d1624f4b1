#pragma once
/// \file
/// A policy: a composition of parts, parsed from text such as `adakv(snapkv(window=32),alpha=0.3)`,
/// `tova(schedule=every(steps=8))`, `kvpress:SnapKVPress(window_size=16)` or `score: -norm(k)`. Grammar:
/// docs/policies.md and docs/formulas.md.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "policies/allocator.h"
#include "policies/budget.h"
#include "policies/needs.h"
#include "policies/placement.h"
#include "policies/protection.h"
#include "policies/schedule.h"
#include "policies/scorer.h"

namespace evictsim::policies {

/// A ready composition. Copyable; parts are shared and immutable, scorers are made per use.
struct Policy {
  std::string name;       ///< the text as given: names rows of run.csv and groups of dumps
  std::string expansion;  ///< the full composition with every parameter; parses back to the same policy
  std::function<std::unique_ptr<Scorer>()> make_scorer;        ///< empty for oracles and for policies that never cut
  std::function<std::unique_ptr<OracleScorer>()> make_oracle;  ///< set for oracles only
  std::shared_ptr<const Allocator> allocator;
  std::shared_ptr<const Schedule> schedule;
  std::vector<std::shared_ptr<const Protection>> protections;
  std::function<std::unique_ptr<Placement>()> make_placement;  ///< empty: what is cut is gone
  bool places_at_any_budget = false;                           ///< see Placement::changes_whole_cache
  Needs needs;
  Granularity granularity = Granularity::kv_head;
  /// When it cuts, to how many per head and per what cache, as text: what policies must share for one to bound the
  /// other.
  std::string terms;
  bool is_optimum = false;  ///< see OracleScorer::is_optimum
  /// Set when the text itself fixes what is kept (a pasted press with `compression_ratio` or `target_size`).
  std::optional<Budget> fixed_budget;

  [[nodiscard]] bool is_oracle() const { return static_cast<bool>(make_oracle); }
  /// Never cuts: everything stays hot.
  [[nodiscard]] bool never_cuts() const { return !make_scorer && !make_oracle; }
  [[nodiscard]] bool places() const { return static_cast<bool>(make_placement); }
};

/// Parses one policy. Throws Error: unknown_name (with the nearest names), invalid_argument (naming parameter, value
/// and range or choices, or the place where the text stops making sense).
Policy parse_policy(std::string_view text);

/// Splits a comma-separated list at its top level (commas inside parentheses belong to a policy); "all" stands for
/// every registered policy with its defaults. A policy listed twice is taken once.
std::vector<Policy> parse_policies(std::string_view list);

}  // namespace evictsim::policies

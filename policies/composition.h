#pragma once
/// \file
/// A policy as a choice of registered parts with their parameters, before it is made into objects.

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "policies/budget.h"
#include "policies/policy.h"
#include "policies/registry.h"

namespace evictsim::policies {

/// A part with all its parameters; of an allocator or scorer that works around another also that one.
struct PartUse {
  const Part* part;
  Parameters parameters;
  std::shared_ptr<const PartUse> inner = {};

  /// "snapkv(variant=library,window=64,...)"
  [[nodiscard]] std::string text() const;
};

struct Composition {
  std::optional<PartUse> scorer;  ///< empty: never cuts
  PartUse allocator;
  PartUse schedule;
  std::vector<PartUse> protections;
  std::optional<PartUse> placement;  ///< empty: what is cut is gone
  std::optional<Budget> budget;

  /// The canonical text: `compose(...)` with every parameter; reads back as the same composition.
  [[nodiscard]] std::string text() const;
};

/// Reads `text` as a policy in the grammar of docs/policies.md, with presets, defaults and swapped parts resolved.
/// Throws Error (unknown_name, invalid_argument).
Composition read_composition(std::string_view text);

/// Makes the parts. Throws Error(invalid_argument) where they do not go together (an oracle that cuts while decoding).
Policy make_policy(const Composition& composition, std::string name);

}  // namespace evictsim::policies

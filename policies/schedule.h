#pragma once
/// \file
/// The schedule part: when is the cache cut?

#include <cstdint>

namespace evictsim::policies {

/// Where a replay stands when it asks.
struct ScheduleState {
  std::int64_t decoded = 0;   ///< decode rows attended so far; 0 = right after the prompt
  std::int64_t row = 0;       ///< token row attended last
  std::int64_t resident = 0;  ///< entries in the longest head
  std::int64_t entries = 0;   ///< the budget, entries per head
  /// Entries over all heads that are cut together (of the layer, or of the model where the allocator pools layers), and
  /// the number of those heads.
  std::int64_t total = 0;
  std::int64_t heads = 1;
};

/// Stateless. Asked after the prompt and after every decode row; a cut that is due brings the cache down to the budget.
class Schedule {
 public:
  virtual ~Schedule() = default;
  [[nodiscard]] virtual bool due(const ScheduleState& state) const = 0;
  /// Whether it may cut after a decode row; if not, the policy ranks once and every budget comes from one pass.
  [[nodiscard]] virtual bool cuts_while_decoding() const = 0;
};

}  // namespace evictsim::policies

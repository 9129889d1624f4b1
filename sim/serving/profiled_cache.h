#pragma once
/// \file
/// What sequences of any length keep and read under an eviction policy, from what the policy did in a replay. The
/// rules by which lengths are carried over are our inference: docs/serving.md, "Eviction".

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sim/serving/resident_cache.h"

namespace evictsim::sim {

/// A policy at a budget. Amounts are in entries of one cache head; "scaled" ones are entries where the budget was given
/// in entries, else shares of the prompt.
struct CacheProfile {
  /// Cache heads that keep about as many entries as one another.
  struct Heads {
    double kept = 0;          ///< scaled; after the prompt's cut
    std::int64_t weight = 0;  ///< how many of them
  };
  struct Reads {
    double level = 0;   ///< scaled; attended by the first decode step
    double share = 0;   ///< in addition, of the prompt
    double growth = 0;  ///< more with every decoded token
  };

  /// Scaled entries of a head that keeps every prompt whole, whatever the budget.
  static constexpr double everything = 1e12;

  std::string policy, budget;  ///< as in the replay
  double output_error = 0;
  double predicted_kl = std::numeric_limits<double>::quiet_NaN();  ///< NaN: not predicted
  bool in_entries = false;                                         ///< the budget was given in entries
  std::vector<Heads> heads;
  std::int64_t kv_heads = 0;  ///< how many the heads' weights stand for; fewer where query heads have their own caches

  double stored_per_entry = 1;    ///< bytes in HBM of an entry kept, over those of the whole entry (quantised: below 1)
  double stored_share = 0;        ///< other bytes in HBM, such as digests, over those of the whole prompt
  double growth = 1;              ///< entries more with every decoded token, once the level is reached
  std::optional<double> level;    ///< scaled; where cuts in decode hold the cache. None: it grows from the cut on
  std::optional<Reads> attended;  ///< where other entries are attended than are kept; none: all that are kept
  double scored = 0;              ///< scaled; entries scored per decode step
  double scanned_share = 0;       ///< bytes read per decode step in order to choose, over those of the whole context
  double recalled = 0;            ///< scaled; entries that a decode step brings back into HBM
  double host_share = 0;          ///< bytes in host memory, over those of the whole prompt

  /// Of a scaled amount: entries of one cache head for a prompt.
  [[nodiscard]] double entries(double scaled, std::int64_t prompt) const {
    return in_entries ? scaled : scaled * static_cast<double>(prompt);
  }
  /// Entries that a decode step recalls, mean over layers and KV heads.
  [[nodiscard]] double recalled_entries(std::int64_t prompt) const { return entries(recalled, prompt); }
  /// Everything is kept and read, and nothing else is done.
  [[nodiscard]] bool keeps_everything() const;
};

/// The behaviour that `profile` describes, for a model all of whose layers keep everything by themselves. The prompt is
/// held as a whole until its last chunk is computed. `seconds_per_recalled_entry`: of the link to the host, for an
/// entry of all layers and heads; recall is not overlapped with the step. Null if everything is kept and read.
/// Throws Error(invalid_argument) for numbers that no cache can have.
std::shared_ptr<const ResidentCache> profiled_cache(CacheProfile profile, double seconds_per_recalled_entry);

}  // namespace evictsim::sim

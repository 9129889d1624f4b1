#pragma once
/// \file
/// The very sequences of a replay, served step by step: what their caches held, read and moved (docs/serving.md,
/// "Recorded sequences").

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sim/serving/resident_cache.h"

namespace evictsim::sim {

/// One decoded token. Entries are means over layers and KV heads of the model served.
struct RecordedStep {
  double attended = 0;   ///< entries that its attention reads, its own included
  double held = 0;       ///< tokens of HBM meanwhile
  double also_read = 0;  ///< by scoring and scanning, as entries of the same bytes
  TierBytes recalled{};  ///< from the first and second tier, before it is attended
  TierBytes written{};   ///< to them, meanwhile
};

/// A prompt and the tokens decoded after it.
struct RecordedSequence {
  std::string name;
  std::int64_t prompt = 0;
  TierBytes written{};  ///< by the prompt's cut
  std::vector<RecordedStep> steps;

  /// The prompt gives the first token, each step another one.
  [[nodiscard]] std::int64_t output() const { return static_cast<std::int64_t>(steps.size()) + 1; }
};

/// Sequences that are served one after another, again from the first one if more are asked for.
struct RecordedWorkload {
  std::string name;
  struct Request {
    std::int64_t prompt = 0, output = 0;
    std::shared_ptr<const ResidentCache> cache;  ///< null: everything is kept
  };
  std::vector<Request> requests;  ///< not empty
};

/// Throws Error(invalid_argument) for a prompt of no tokens and numbers below 0.
std::shared_ptr<const ResidentCache> recorded_cache(RecordedSequence sequence);
/// Everything is kept and read, counted in the units of recorded_cache().
std::shared_ptr<const ResidentCache> full_recorded_cache();

}  // namespace evictsim::sim

#pragma once
/// \file
/// Requests for a serving simulation: from a trace, or made up.

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "sim/serving/arrivals.h"
#include "sim/serving/recorded_cache.h"
#include "sim/serving/serving.h"
#include "traces/workload/workload.h"

namespace evictsim::sim {

/// How much of a workload, and how fast.
struct Load {
  std::optional<double> rate;               ///< requests per second; of a trace: its arrivals are stretched to it
  double scale_rate = 1;                    ///< on top of that
  std::optional<double> duration;           ///< seconds in which requests may arrive
  std::optional<std::int64_t> requests;     ///< at most so many
  std::uint64_t seed = 0;                   ///< of what is made up
  const std::atomic<bool>* stop = nullptr;  ///< when set, the source throws Error(interrupted); not owned
};

/// Requests of a made-up workload when neither their number nor a duration is given.
inline constexpr std::int64_t default_requests = 1000;
/// Tokens per name in WorkloadRequest::prefix_blocks of what is made up.
inline constexpr int generated_block_tokens = 16;

/// One of the three.
struct ServingWorkload {
  std::shared_ptr<const traces::Workload> trace;
  std::shared_ptr<const RecordedWorkload> recorded;  ///< neither: made up
  GeneratedWorkload generated;

  /// A file, or what GeneratedWorkload::parse reads. Throws their errors, and Error(unknown_name) for what is neither.
  static ServingWorkload find(const std::string& text, const GeneratedWorkload& defaults);
  /// The file's name, or what is made up in full.
  [[nodiscard]] std::string name() const;
  /// Whether requests wait for answers, so that no rate can be set.
  [[nodiscard]] bool closed() const { return random() && generated.closed(); }
  /// Whether different seeds give different requests.
  [[nodiscard]] bool random() const { return !trace && !recorded; }
  /// Requests per second that arrive under `load`; none for closed. Throws Error(invalid_argument) for a rate, factor,
  /// duration or number out of range, a rate that is missing, superfluous, or cannot be reached by stretching since all
  /// requests of the trace arrive at once.
  [[nodiscard]] std::optional<double> rate(const Load& load) const;
  /// How many requests arrive under `load` at most, if that is known beforehand.
  [[nodiscard]] std::optional<std::int64_t> most_requests(const Load& load) const;
  /// Throws as rate(). This must outlive the source.
  ///
  /// Recorded: at equal gaps if a rate is given, else all at once; each sequence once unless `requests` says otherwise.
  /// Made up: request i of a seed has the same lengths at any rate, and arrivals at one rate are those at another one
  /// stretched. A conversation of several turns arrives as a whole at rate / turns; its next turn comes when the answer
  /// to the last one was complete and the user has thought. A closed loop's users begin at 0.
  [[nodiscard]] std::unique_ptr<RequestSource> source(const Load& load) const;
};

}  // namespace evictsim::sim

#pragma once
/// \file
/// What policies really cost: they run in the model itself, beside a replay of the same text (docs/capture.md).

#include <atomic>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "analysis/damage/truth_file.h"
#include "sim/replay/replay.h"
#include "traces/capture/capture_plan.h"
#include "traces/capture/captured_model.h"
#include "traces/capture/damage/next_token.h"

namespace evictsim::traces::capture {

struct VerifyPlan {
  std::filesystem::path model;
  EngineSettings engine;
  sim::ReplayPlan points;
  std::uint64_t seed = 0;                 ///< of policies that draw random numbers
  std::filesystem::path trace_directory;  ///< where the texts' traces stay; empty: they are removed
};

/// What a verification tells while it runs.
class VerifyObserver {
 public:
  virtual ~VerifyObserver() = default;
  /// Whether this row is known already.
  virtual bool is_known(const std::string& text, const std::string& policy, const std::string& budget) = 0;
  /// The text was recorded and replayed; `uncut`: nothing cut, attention computed by the replay's code. What the
  /// engine's rounding does with it bounds how small a KL can be told.
  virtual void began(const std::string& text, const NextTokenChange& uncut) = 0;
  virtual void measured(const analysis::TruthRow& row) = 0;
  /// A policy's points do not run in this text.
  virtual void skipped(const std::string& text, const std::string& policy, const std::string& why) = 0;
};

/// A loaded model and the policies that run in it.
class Verification {
 public:
  /// Loads the model and checks it. Throws Error; invalid_argument where no policy can run in a model.
  explicit Verification(VerifyPlan plan);
  /// Policies of the plan that cannot run in a model, which `run` leaves out: (name, why).
  [[nodiscard]] const std::vector<std::pair<std::string, std::string>>& refused() const { return refused_; }
  [[nodiscard]] const CapturedModel& model() const { return model_; }
  /// Runs one text, called by its `id`, in the plan's order of points. Throws Error(interrupted) once `stop` is set,
  /// and what the engine does.
  void run(const SequencePlan& text, VerifyObserver& observer, const std::atomic<bool>& stop) const;

 private:
  VerifyPlan plan_;
  std::vector<std::pair<std::string, std::string>> refused_;
  CapturedModel model_;
};

}  // namespace evictsim::traces::capture

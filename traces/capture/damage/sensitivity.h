#pragma once
/// \file
/// How much the error of each layer's attention matters to the model: KL of the next token per squared error behind
/// W_O, measured by cutting one layer at a time at random (docs/damage.md).

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "traces/capture/capture_plan.h"
#include "traces/capture/captured_model.h"

namespace evictsim::traces::capture {

struct SensitivityPlan {
  std::filesystem::path model;
  EngineSettings engine;
  int draws = 1;           ///< random cuts per text
  std::uint64_t seed = 0;  ///< of the draws
};

/// One layer under one draw in one text.
struct ProbePoint {
  std::string text;
  int draw = 0;
  int layer = 0;
  double kl = 0;             ///< nats, mean over rows, of the model with this layer cut
  double rounding = 0;       ///< what is left of it with nothing cut; 0 where the engine does not round that coarsely
  double squared_error = 0;  ///< m_l: mean over rows of |W_O dO|^2, behind the output norm where there is one
};

/// What was measured.
struct Sensitivity {
  std::vector<double> weights;  ///< [layers of the model] sum of KL / sum of m_l over texts and draws, at least 0
  std::map<std::string, std::string> attributes;  ///< how
};

/// A loaded model, probed with texts.
class SensitivityProbe {
 public:
  /// Throws Error.
  explicit SensitivityProbe(SensitivityPlan plan);
  [[nodiscard]] const CapturedModel& model() const { return model_; }

  /// Every text needs rows behind its prompt. `done` is called after every layer. Throws Error(interrupted) once `stop`
  /// is set, and what the engine does.
  Sensitivity measure(const std::vector<SequencePlan>& texts, const std::function<void(const ProbePoint&)>& done,
                      const std::atomic<bool>& stop) const;

  /// Puts the weights of the trace's layers into it, or into a copy of it. Throws Error(invalid_argument) for a trace
  /// of a model of another shape.
  void store(const Sensitivity& sensitivity, const std::filesystem::path& trace,
             const std::filesystem::path& output) const;

 private:
  SensitivityPlan plan_;
  CapturedModel model_;
};

}  // namespace evictsim::traces::capture

#pragma once
/// \file
/// Policies in a model that really runs: what every layer attends while the decode rows are computed again and each
/// layer sees what the cuts in the layers before it have done. The engine stays outside: it hands over q, k and v (and
/// what enters) of a layer's decode rows as they are in its run, and takes the attention output in return
/// (docs/damage.md).
///
/// All decode rows of a layer are handed over at once (teacher forcing). Policies that cut while decoding see what
/// their own cuts lead to, row by row all the same: a layer's cuts depend on that layer's rows alone. Only budgets that
/// are split over all layers at every cut need more than one run (`splits_change`).

#include <atomic>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "models/norm.h"
#include "sim/replay/kept_chain.h"
#include "sim/replay/layer_cache.h"
#include "sim/replay/layer_data.h"
#include "sim/replay/layer_replay.h"
#include "sim/replay/prompt_features.h"
#include "sim/replay/replay.h"
#include "sim/replay/side_data.h"
#include "traces/reader.h"

namespace evictsim::sim {

/// q, k and v of the decode rows of one layer, token-major as engines have them.
struct DecodeRows {
  std::span<const float> q;     ///< [R, Hq, d] after RoPE
  std::span<const float> k, v;  ///< [R, Hkv, d]; k after RoPE
  std::span<const float> x;     ///< [R, D] residual stream that enters the layer; where `ClosedLoop::needs_input`
};

/// Why a policy cannot run closed loop although a replay can run it; empty: it can.
std::string closed_loop_refusal(const policies::Policy& policy);

/// One sequence in memory, all layers, under the points of a plan. Not for several threads at once.
class ClosedLoop {
 public:
  /// `cuts`: what sim::replay reported for this sequence, plan and options. A cut of the prompt does not depend on what
  /// is decoded, so it is not made again. `policies`: indices into the plan of those that will run. References must
  /// outlive this. Throws Error(missing_data) where the trace lacks layers of the model or queries of decode rows.
  ClosedLoop(const traces::Reader& reader, std::size_t sequence, const ReplayPlan& plan, const ReplayOptions& options,
             std::vector<PromptCut> cuts, const std::set<std::size_t>& policies, const std::atomic<bool>& stop);

  /// R, the layers of the model, and Hq * d.
  [[nodiscard]] Index decode_rows() const { return std::ssize(layers_.front()->decode_rows()); }
  [[nodiscard]] std::size_t layers() const { return layers_.size(); }
  [[nodiscard]] Index width() const { return Index{geometry_.num_query_heads} * geometry_.head_dim; }
  /// Whether a policy looks at what enters layers while decoding.
  [[nodiscard]] bool needs_input() const { return needs_.layer_input; }
  /// Policies that failed while they were made ready, with the reason; their points cannot run.
  [[nodiscard]] const std::map<std::size_t, std::string>& failed() const { return failed_; }

  /// What a point changes in a layer's attention output before W_O, [R, Hq * d] row-major: attention over what it keeps
  /// minus attention over everything, both in this run. Throws what the policy's parts throw.
  [[nodiscard]] Matrix change(std::size_t point, std::size_t layer, const DecodeRows& rows);
  /// After a run of the point through all layers: whether a budget that is split over all layers at every cut while
  /// decoding falls differently on the rows of that run. The next run then takes what it found. A row sees cuts made
  /// before it alone, so every run gets one more row right at least, and decode_rows() + 1 runs are enough for all but
  /// oracles.
  [[nodiscard]] bool splits_change(std::size_t point);
  /// Attention over everything.
  [[nodiscard]] Matrix attention(std::size_t layer, const DecodeRows& rows);

 private:
  void read_layers(const traces::Reader& reader);
  LayerData& replaced(std::size_t layer, const DecodeRows& rows);
  void make_ready(const std::set<std::size_t>& policies);
  [[nodiscard]] ModelPlans plans_of(std::vector<ActivePolicy> policies,
                                    const std::function<void(std::size_t policy, const std::string& why)>& failed);
  [[nodiscard]] Matrix change_of_cut(const LayerData& layer, const policies::Policy& policy,
                                     const KeptChain& chain) const;
  [[nodiscard]] Matrix change_of_run(std::size_t point, std::size_t slot) const;

  std::size_t sequence_;
  const ReplayPlan& plan_;
  const ReplayOptions& options_;
  const std::atomic<bool>& stop_;
  models::Geometry geometry_;
  models::Rope rope_;
  const traces::SequenceInfo& info_;
  RandomKey random_;
  policies::Needs needs_;  ///< of the policies that go on while decoding
  SequenceSide side_;
  std::vector<std::unique_ptr<LayerData>> layers_;
  std::vector<models::Norm> input_norms_;     ///< [layer] before attention; none unless `needs_input`
  std::vector<PromptFeatures> features_;      ///< [layer]; none where no policy goes on while decoding
  std::vector<std::vector<KeptChain>> kept_;  ///< [point][layer]
  ModelPlans plans_;
  std::map<std::size_t, std::string> failed_;
};

}  // namespace evictsim::sim

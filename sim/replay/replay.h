#pragma once
/// \file
/// The token-level replay: recorded attention under eviction policies and budgets, open loop.
///
/// For every sequence and layer: the prompt is cut as each policy's schedule says, then every decode row that has a
/// query attends over what is resident (softmax renormalised over it), the policy observes, and cuts. Queries are those
/// of the full-cache run, so the prompt's selection is exact and what follows the first eviction is first order.
/// Results go to an observer, block by block; nothing of size T x T is stored, and memory is bounded by the layers in
/// flight (at most one per thread), see docs/performance.md.

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "models/matrix.h"
#include "policies/budget.h"
#include "policies/policy.h"
#include "traces/reader.h"

namespace evictsim::sim {

/// Tokens that attention is split over. An entry is of the first class that fits, docs/metrics.md.
enum class TokenClass { sink, useful, distractor, decoded };
inline constexpr std::size_t token_class_count = 4;

/// One policy at one budget.
struct ReplayPoint {
  std::size_t policy = 0;  ///< index into ReplayPlan::policies
  policies::Budget budget;
};

/// What to replay.
struct ReplayPlan {
  std::vector<policies::Policy> policies;
  std::vector<ReplayPoint> points;

  /// Every policy at every budget (or at its own, where its text fixes one).
  static ReplayPlan of(std::vector<policies::Policy> policies, const std::vector<policies::Budget>& budgets);
};

struct ReplayOptions {
  int threads = 0;          ///< 0: all cores; results do not depend on it
  std::uint64_t seed = 0;   ///< of policies that draw random numbers
  std::vector<int> layers;  ///< captured layers to replay (indices in the model); empty: all
  /// m: entries of the dilution's useful set where a sequence has no evidence spans, and entries attended most that
  /// `premature_evictions` looks at.
  int useful_entries = 32;
  /// k: along how many random directions the errors of all layers are summed as vectors (LayerBlock::summed_error,
  /// docs/damage.md); the residual stream's width or more: exactly. 0: they are not.
  int summed_error_directions = 0;
  int sink_entries = 4;        ///< token rows at the start of a sequence that are of the class `sink`
  bool with_scores = false;    ///< fill PromptCut::scores
  bool with_resident = false;  ///< fill LayerBlock::resident_rows
  bool with_stored = false;    ///< fill LayerBlock::stored
  bool with_entries = false;   ///< report FullEntries and EntryLosses
  /// A policy whose needs the trace lacks: throw Error(missing_need), or report it skipped and go on.
  bool skip_missing_needs = false;
};

/// A sequence about to be replayed.
struct SequenceStart {
  std::size_t trace = 0;     ///< index into the readers
  std::size_t sequence = 0;  ///< index in its file
  std::string trace_path, name;
  std::int32_t prompt_length = 0;
  std::int32_t length = 0;
  std::vector<int> layers;                ///< evaluated layers, indices in the model
  std::vector<std::int32_t> decode_rows;  ///< union over layers of the decode rows that have a query, ascending
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int stored_bytes = 0;  ///< bytes of one stored component of k or v (2 or 4)
  /// Decode rows, ascending, whose errors are summed over layers as vectors, and the norm of the residual stream
  /// behind the last layer in them. At most most_summed_rows, evenly spread; none unless asked for, or without
  /// `final_norm_input`.
  std::vector<std::int32_t> summed_rows;
  std::vector<double> final_norms;
};

inline constexpr std::size_t most_summed_rows = 256;

/// Errors of some rows of a block, as vectors.
struct ErrorVectors {
  std::span<const std::int32_t> rows;  ///< [S] token rows, among SequenceStart::summed_rows
  std::span<const float> values;       ///< [S, k] directions (y' - y); empty without w_o
};

/// The cut after the prompt of one layer, for one point (all entries where the policy does not cut there).
struct PromptCut {
  std::size_t point = 0;  ///< index into ReplayPlan::points
  std::size_t layer = 0;  ///< index into SequenceStart::layers
  int cache_heads = 0;    ///< KV heads, or query heads for policies that keep one cache per query head
  std::vector<std::vector<std::int32_t>> kept;  ///< [cache head] prompt rows resident, ascending
  std::vector<std::vector<float>> scores;       ///< [cache head][prompt_length], NaN = no score; empty unless asked for
  /// Bytes at rest over all heads after the cut; policies with a placement only.
  std::optional<policies::TierBytes> stored;
  std::vector<double> oracle_overlap;  ///< [cache head] share of kept rows that the future-mass oracle keeps too
  std::int64_t scored_entries = 0;     ///< entries scored for this cut, over cache heads; 0 where nothing is cut
};

/// What the full cache does in a block of rows of one layer; the same for every point.
struct FullBlock {
  std::size_t layer = 0;
  std::span<const std::int32_t> rows;  ///< [B] token rows
  models::MatrixView dilution;         ///< [B, Hq] 1 - mass on the useful set; NaN where there is no such set
  models::MatrixView entropy;          ///< [B, Hq] nats
  /// [TokenClass] [B, Hq] full attention on each class; useful and distractor are NaN where `dilution` is
  std::span<const models::Matrix> class_mass = {};
};

/// What the full cache does to every entry of one layer, over all its decode rows; the same for every point.
struct FullEntries {
  std::size_t layer = 0;
  std::span<const std::vector<double>> attention;      ///< [Hq][length] mean over rows
  std::span<const std::vector<double>> attended_most;  ///< [Hq][length] share of rows that attend it most
};

/// What one point does to every entry of one layer, over all its decode rows.
struct EntryLosses {
  std::size_t point = 0;
  std::size_t layer = 0;
  /// [length] full attention from rows that do not attend the entry under the policy; mean over rows and query heads
  std::span<const double> lost_mass;
  /// [length] share of rows and query heads that have the entry among the `useful_entries` attended most with the full
  /// cache, and do not attend it under the policy
  std::span<const double> premature_evictions;
};

/// What one point does in a block of rows of one layer. Blocks of a layer come in row order.
struct LayerBlock {
  std::size_t point = 0;
  std::size_t layer = 0;
  std::span<const std::int32_t> rows;  ///< [B] token rows
  models::MatrixView retained_mass;    ///< [B, Hq] full-softmax mass of the resident entries
  models::MatrixView output_error;     ///< [B, Hq] |o' - o| / |o|
  models::MatrixView dilution;         ///< [B, Hq] after renormalisation over what is resident; NaN as in FullBlock
  models::MatrixView entropy;          ///< [B, Hq] nats, of the renormalised attention
  /// [TokenClass] [B, Hq] renormalised attention on each class; NaN as in FullBlock
  std::span<const models::Matrix> class_mass = {};
  /// [B, Hq] full attention on the prompt entries that an oracle keeps minus that on those which the policy's cut after
  /// the prompt keeps, as many in every cache head.
  models::MatrixView regret;
  models::MatrixView oracle_gain;  ///< [B, Hq] the same of a random cut in expectation: what can be regretted
  /// [B, Hq] share of the `useful_entries` entries attended most with the full cache that had been evicted by then.
  models::MatrixView premature_evictions;
  /// [B] full attention on the prompt's first four entries as far as they had been evicted, mean over query heads
  std::span<const double> lost_sink_mass;
  ErrorVectors summed_error;
  std::span<const double> error_squared;   ///< [B] |y' - y|^2 behind W_O; empty without w_o
  std::span<const double> output_squared;  ///< [B] |y|^2; empty without w_o
  std::span<const std::int32_t> resident;  ///< [B * cache heads] entries attended by each row, decode rows included
  std::span<const std::int32_t> evicted;   ///< [B * cache heads] entries cut after each row
  /// Cuts made since the last block (or the prompt), and entries scored for them over cache heads.
  std::int64_t cuts = 0, scored_entries = 0;
  std::span<const policies::StepTraffic> traffic;  ///< [B]; empty without a placement
  /// [B] bytes at rest after the row attended and its cut; empty unless asked for, and without a placement
  std::span<const policies::TierBytes> stored = {};
  /// [cache head] matrices [B, length] of 0 and 1: resident after the row attended and its cut; empty unless asked for
  /// and for policies that do not cut while decoding.
  std::span<const std::vector<std::uint8_t>> resident_rows;
};

/// Receives results. Calls are serialised by the engine but come from any of its threads, layers in any order.
class ReplayObserver {
 public:
  virtual ~ReplayObserver() = default;
  virtual void begin_sequence(const SequenceStart& start) = 0;
  /// The points of `policy` are left out of this sequence; `why` names the dataset that lacks.
  virtual void skipped(std::size_t policy, const std::string& why) = 0;
  /// The points of `policy` failed in this sequence (the policy broke its contract); others go on.
  virtual void failed(std::size_t policy, const std::string& why) = 0;
  virtual void prompt_cut(PromptCut&& cut) = 0;
  virtual void full_block(const FullBlock& block) = 0;
  virtual void layer_block(const LayerBlock& block) = 0;
  /// After a layer's last block, where it has any and ReplayOptions::with_entries asks: the full cache, then each
  /// point.
  virtual void full_entries(const FullEntries& /*entries*/) {}
  virtual void entry_losses(const EntryLosses& /*losses*/) {}
  /// After the last layer; not called when the replay was stopped in between.
  virtual void end_sequence() = 0;
  /// Called now and then with the share of the current sequence's layers done.
  virtual void progress(double share) = 0;
};

/// Replays all sequences of all readers. `stop` may be set from another thread or a signal handler: the sequence in
/// progress is abandoned (its end_sequence is not called) and Error(interrupted) thrown.
void replay(const std::vector<traces::Reader>& readers, const ReplayPlan& plan, const ReplayOptions& options,
            ReplayObserver& observer, const std::atomic<bool>& stop);

}  // namespace evictsim::sim

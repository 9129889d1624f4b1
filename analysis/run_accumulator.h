#pragma once
/// \file
/// Turns the blocks of a replay into one row of results per sequence, policy and budget, and on request into arrays by
/// layer, head and step. Results do not depend on the order in which layers arrive, nor on how rows are cut into
/// blocks.

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "analysis/cache_sizes.h"
#include "analysis/detail_axes.h"
#include "analysis/entry_detail.h"
#include "analysis/run_row.h"
#include "sim/replay/replay.h"
#include "traces/reader.h"

namespace evictsim::analysis {

/// One metric by the axes asked for, in the order layer, head, step; NaN where nothing was evaluated. Metrics behind
/// W_O have no head axis. `squared_error` is summed, not averaged, over layers when these are not asked for.
struct DetailArray {
  std::string name;  ///< "by_step/output_error": kept apart from the arrays of the other axes
  std::string axes;  ///< "layer,step"
  std::vector<std::size_t> shape;
  std::vector<double> values;
};

/// Everything about one finished sequence.
struct SequenceResult {
  sim::SequenceStart start;
  std::vector<RunRow> rows;                    ///< of points that were not skipped, in the plan's order
  std::vector<std::size_t> points;             ///< the plan's point of every row
  std::vector<std::vector<LayerSizes>> sizes;  ///< [row][layer]; none of failed rows
  std::vector<std::pair<std::size_t, std::string>> skipped, failed;  ///< (policy, why)
  std::vector<DetailArray> full_detail;                              ///< of the full cache: dilution and entropy
  std::vector<std::vector<DetailArray>> detail;  ///< by row; empty without axes, and for failed rows
  std::vector<EntryArray> full_entries;          ///< of the full cache
  std::vector<std::vector<EntryArray>> entries;  ///< by row; empty unless asked for, and for failed rows
};

/// Evidence spans by trace and sequence.
using EvidenceSpans = std::vector<std::vector<std::vector<traces::Span>>>;
EvidenceSpans evidence_spans(const std::vector<traces::Reader>& readers);

struct SequenceSums;

/// See the file's comment. Memory: for every point and evaluated layer some sums for each of the square root of R
/// batches of decode rows, and at most 512 KiB for quantiles; with detail, the arrays as well (EntryDetail,
/// TierDetail).
class RunAccumulator : public sim::ReplayObserver {
 public:
  /// `finished` is called after every sequence. `plan` must outlive this.
  RunAccumulator(const sim::ReplayPlan& plan, EvidenceSpans evidence, DetailAxes axes,
                 std::function<void(SequenceResult&&)> finished);
  ~RunAccumulator() override;

  void begin_sequence(const sim::SequenceStart& start) override;
  void skipped(std::size_t policy, const std::string& why) override;
  void failed(std::size_t policy, const std::string& why) override;
  void prompt_cut(sim::PromptCut&& cut) override;
  void full_block(const sim::FullBlock& block) override;
  void layer_block(const sim::LayerBlock& block) override;
  void full_entries(const sim::FullEntries& entries) override;
  void entry_losses(const sim::EntryLosses& losses) override;
  void end_sequence() override;
  void progress(double share) override;

 private:
  /// How much attention each row loses against the optimum at its terms, where the sweep holds one.
  void fill_optimality_gaps(const std::vector<std::size_t>& points, std::vector<RunRow>& rows) const;

  const sim::ReplayPlan& plan_;
  EvidenceSpans evidence_;
  DetailAxes axes_;
  std::function<void(SequenceResult&&)> finished_;
  std::unique_ptr<SequenceSums> current_;
};

}  // namespace evictsim::analysis

#pragma once
/// \file
/// The points of a run as a grid, policies down and budgets across, and the metrics that reports show of them.
/// Sections of the report: docs/report.md.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "analysis/run_file_reader.h"
#include "analysis/summary.h"

namespace evictsim::analysis {

enum class MetricGroup : std::uint8_t { quality, memory, work };
enum class Better : std::uint8_t { lower, higher, neither };

/// A metric as reports show it.
struct ShownMetric {
  Metric metric;
  const char* title;
  const char* unit;
  MetricGroup group = MetricGroup::quality;
  Better better = Better::lower;
  bool at_most_one = false;
  /// Columns of the interval over the steps of one sequence, where rows have them.
  std::optional<Metric> low = {}, high = {};

  [[nodiscard]] const char* name() const { return to_string(metric); }
  /// `value`, or its negative: smaller is better. For metrics with a better direction.
  [[nodiscard]] double cost(double value) const { return better == Better::higher ? -value : value; }
};

/// In the order of reports; `output_error` first.
std::span<const ShownMetric> shown_metrics();
/// Throws Error(unknown_name) with the names there are; `parameter` is the option that gave it.
const ShownMetric& shown_metric(const std::string& name, const std::string& parameter);

enum class PolicyKind : std::uint8_t {
  policy,
  oracle,  ///< sees the future
  full,    ///< the full cache
};
const char* to_string(PolicyKind kind) noexcept;
/// Of a policy by its expansion, in which the registry knows every oracle by name.
PolicyKind kind_of(const std::string& expansion);

/// What an interval is taken over.
enum class IntervalOver : std::uint8_t {
  nothing,
  steps,
  sequences,
  calibration,  ///< of a prediction: its own band, from the texts that it was calibrated with
};

class PointGrid {
 public:
  struct Policy {
    RunContents::Policy about;
    PolicyKind kind = PolicyKind::policy;
  };
  struct Budget {
    std::string text;
    double value = 0;
    double share = 0;  ///< of the prompt, in (0, 1]: entries over the mean length of prompts
  };
  struct Point {
    PointSummary summary;           ///< `sequences` 0: there is no such point
    std::vector<std::size_t> rows;  ///< of the run, without failed ones
    /// Whether bytes at rest in HBM hold to the budget's share of the full cache's; nullopt: not known.
    std::optional<bool> within;
  };

  /// `contents` must outlive this.
  explicit PointGrid(const RunContents& contents);

  [[nodiscard]] const RunContents& contents() const { return *contents_; }
  /// Policies that have rows, in the order of their first.
  [[nodiscard]] const std::vector<Policy>& policies() const { return policies_; }
  [[nodiscard]] const std::vector<RunContents::Policy>& left_out() const { return left_out_; }
  /// Ascending by share.
  [[nodiscard]] const std::vector<Budget>& budgets() const { return budgets_; }
  [[nodiscard]] const Point& at(std::size_t policy, std::size_t budget) const {
    return points_[policy * budgets_.size() + budget];
  }
  [[nodiscard]] std::size_t size() const { return points_.size(); }

  /// What the intervals of this metric are over: sequences where any point has two, else steps or the calibration.
  [[nodiscard]] IntervalOver interval_over(const ShownMetric& metric) const;
  /// Mean over sequences with that interval.
  [[nodiscard]] Estimate value(const ShownMetric& metric, std::size_t policy, std::size_t budget) const;
  [[nodiscard]] bool has(const ShownMetric& metric) const;
  /// The metric that a report of this run judges by: predicted damage where every row has it, else output error, else
  /// the first one of quality with values. Null when there is none.
  [[nodiscard]] const ShownMetric* default_metric() const;
  /// Values of one metric by sequence, for pairing. Sequences without a value are left out.
  struct SequenceValue {
    std::string trace, sequence;
    double value = 0;
  };
  [[nodiscard]] std::vector<SequenceValue> by_sequence(const ShownMetric& metric, std::size_t policy,
                                                       std::size_t budget) const;
  /// Distinct (trace, sequence) of the run, by the row that names them first.
  [[nodiscard]] const std::vector<std::size_t>& sequences() const { return sequences_; }
  /// Which of them a row is about.
  [[nodiscard]] std::size_t sequence_of(std::size_t row) const { return sequence_of_[row]; }

 private:
  void fill_budgets();
  void fill_points();

  const RunContents* contents_;
  std::vector<Policy> policies_;
  std::vector<RunContents::Policy> left_out_;
  std::vector<Budget> budgets_;
  std::vector<Point> points_;
  std::vector<std::size_t> sequences_, sequence_of_;
};

}  // namespace evictsim::analysis

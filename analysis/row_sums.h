#pragma once
/// \file
/// Sums of one metric over the rows of one layer, and their combination over layers. Internal to analysis/.

#include <cstddef>
#include <vector>

#include "analysis/run_accumulator.h"
#include "analysis/statistics.h"

namespace evictsim::analysis {

/// The decode rows of a sequence: each row's step, and the batch of steps it belongs to.
class Steps {
 public:
  explicit Steps(std::vector<std::int32_t> rows);
  [[nodiscard]] std::size_t count() const { return rows_.size(); }
  [[nodiscard]] std::size_t batches() const { return batches_; }
  /// Throws Error(invalid_argument) for a row that is no decode row of the sequence.
  [[nodiscard]] std::size_t step_of(std::int32_t row) const;
  [[nodiscard]] std::size_t batch_of_step(std::size_t step) const;

 private:
  std::vector<std::int32_t> rows_;
  std::size_t batches_;
};

/// Sums of one metric in one layer: by batch of steps, and by head and step where detail asks for it. Rows must come in
/// order, so that sums do not depend on how they were cut into blocks.
class RowSums {
 public:
  RowSums() = default;
  RowSums(std::size_t batches, std::size_t heads, std::size_t steps)
      : batch_sums_(batches), batch_rows_(batches), detail_heads_(heads) {
    detail_.assign(heads * steps, 0.0);
    detail_rows_.assign(steps, 0);
  }
  /// The values of one row, one per head.
  template <typename Values>
  void add(std::size_t step, std::size_t batch, const Values& values, std::size_t heads);

  [[nodiscard]] std::size_t rows() const { return rows_; }
  [[nodiscard]] double mean() const { return sum_ / static_cast<double>(rows_); }
  [[nodiscard]] bool has_batch(std::size_t batch) const { return batch < batch_rows_.size(); }
  [[nodiscard]] std::size_t batch_rows(std::size_t batch) const { return batch_rows_[batch]; }
  [[nodiscard]] double batch_mean(std::size_t batch) const {
    return batch_sums_[batch] / static_cast<double>(batch_rows_[batch]);
  }
  /// Mean over what the detail's cell covers; NaN when nothing was evaluated there.
  [[nodiscard]] double detail(std::size_t head, std::size_t step) const;

 private:
  std::size_t rows_ = 0;
  double sum_ = 0;
  std::vector<double> batch_sums_;
  std::vector<std::size_t> batch_rows_;
  std::vector<double> detail_;
  std::vector<std::size_t> detail_rows_;
  std::size_t detail_heads_ = 0;
};

/// How a metric is combined over layers.
enum class OverLayers { mean, sum };

/// Over layers in their order: the metric and its 95 % interval over steps (statistics.h). Layers without rows are left
/// out; NaN when none has any.
Estimate combine_layers(const std::vector<const RowSums*>& layers, OverLayers combination);
/// Mean of `numerator` over mean of `denominator`, both over rows and then layers, which have the same rows. The
/// interval takes the batches' deviations from that ratio, n_b - ratio d_b, in units of the denominator's mean (the
/// ratio estimator's linearisation). Not available where the denominator's mean is below `smallest`.
Estimate ratio_of_means(const std::vector<const RowSums*>& numerator, const std::vector<const RowSums*>& denominator,
                        double smallest);
/// The detail array of one metric. `heads` and `steps` are the extents kept (1: averaged over).
DetailArray combine_detail(const char* name, const std::vector<const RowSums*>& layers, OverLayers combination,
                           DetailAxes axes, std::size_t heads, std::size_t steps);

template <typename Values>
void RowSums::add(std::size_t step, std::size_t batch, const Values& values, std::size_t heads) {
  double total = 0;
  for (std::size_t head = 0; head < heads; ++head) total += static_cast<double>(values(head));
  const double mean = total / static_cast<double>(heads);
  ++rows_;
  sum_ += mean;
  if (!batch_rows_.empty()) {
    ++batch_rows_[batch];
    batch_sums_[batch] += mean;
  }
  if (detail_heads_ == 0) return;
  const std::size_t steps = detail_rows_.size();
  const std::size_t slot = steps == 1 ? 0 : step;
  ++detail_rows_[slot];
  if (detail_heads_ == 1) {
    detail_[slot] += mean;
  } else {
    for (std::size_t head = 0; head < heads; ++head) detail_[head * steps + slot] += static_cast<double>(values(head));
  }
}

}  // namespace evictsim::analysis

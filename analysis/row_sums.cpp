#include "analysis/row_sums.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "traces/error.h"

namespace evictsim::analysis {

Steps::Steps(std::vector<std::int32_t> rows) : rows_(std::move(rows)), batches_(batch_count(rows_.size())) {}

std::size_t Steps::step_of(std::int32_t row) const {
  const auto found = std::lower_bound(rows_.begin(), rows_.end(), row);
  if (found == rows_.end() || *found != row) {
    throw Error(ErrorCode::invalid_argument, "a block holds a row that is no decode row of the sequence",
                {.file = {}, .dataset = {}, .parameter = "row", .value = std::to_string(row)});
  }
  return static_cast<std::size_t>(found - rows_.begin());
}

std::size_t Steps::batch_of_step(std::size_t step) const {
  return batches_ == 0 ? 0 : batch_of(step, rows_.size(), batches_);
}

double RowSums::detail(std::size_t head, std::size_t step) const {
  const std::size_t rows = detail_rows_[step];
  return rows == 0 ? not_available : detail_[head * detail_rows_.size() + step] / static_cast<double>(rows);
}

Estimate combine_layers(const std::vector<const RowSums*>& layers, OverLayers combination) {
  double total = 0;
  std::size_t evaluated = 0;
  for (const RowSums* layer : layers) {
    if (layer->rows() == 0) continue;
    total += layer->mean();
    ++evaluated;
  }
  Estimate estimate;
  if (evaluated == 0) return estimate;
  const auto divisor = [combination](std::size_t count) {
    return combination == OverLayers::mean ? static_cast<double>(count) : 1.0;
  };
  estimate.mean = total / divisor(evaluated);

  std::vector<double> batches;
  for (std::size_t batch = 0;; ++batch) {
    double sum = 0;
    std::size_t count = 0;
    bool more = false;
    for (const RowSums* layer : layers) {
      if (!layer->has_batch(batch)) continue;
      more = true;
      if (layer->batch_rows(batch) == 0) continue;
      sum += layer->batch_mean(batch);
      ++count;
    }
    if (!more) break;
    if (count > 0) batches.push_back(sum / divisor(count));
  }
  estimate.count = batches.size();
  const Estimate over_batches = student_estimate(batches);
  // Batches may differ by one row in size: the interval's width is theirs, its centre the mean over all rows.
  const double half_width = (over_batches.high - over_batches.low) / 2;
  estimate.low = estimate.mean - half_width;
  estimate.high = estimate.mean + half_width;
  return estimate;
}

DetailArray combine_detail(const char* name, const std::vector<const RowSums*>& layers, OverLayers combination,
                           DetailAxes axes, std::size_t heads, std::size_t steps) {
  DetailArray array{.name = name, .axes = {}, .shape = {}, .values = {}};
  const auto axis = [&array](bool kept, const char* axis_name, std::size_t extent) {
    if (!kept) return;
    array.axes += (array.axes.empty() ? "" : ",") + std::string(axis_name);
    array.shape.push_back(extent);
  };
  axis(axes.layer, "layer", layers.size());
  axis(axes.head, "head", heads);
  axis(axes.step, "step", steps);
  const std::size_t cells = heads * steps;
  if (axes.layer) {
    array.values.reserve(layers.size() * cells);
    for (const RowSums* layer : layers) {
      for (std::size_t cell = 0; cell < cells; ++cell) {
        array.values.push_back(layer->detail(cell / steps, cell % steps));
      }
    }
    return array;
  }
  for (std::size_t cell = 0; cell < cells; ++cell) {
    double sum = 0;
    std::size_t count = 0;
    for (const RowSums* layer : layers) {
      const double value = layer->detail(cell / steps, cell % steps);
      if (std::isnan(value)) continue;
      sum += value;
      ++count;
    }
    const double divisor = combination == OverLayers::mean ? static_cast<double>(count) : 1.0;
    array.values.push_back(count == 0 ? not_available : sum / divisor);
  }
  return array;
}

}  // namespace evictsim::analysis

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

namespace {

/// One metric over layers: as a whole, and in every batch of steps that has rows.
struct Combined {
  double mean = not_available;
  std::vector<double> batches;
};

Combined combined(const std::vector<const RowSums*>& layers, OverLayers combination) {
  const auto divisor = [combination](std::size_t count) {
    return combination == OverLayers::mean ? static_cast<double>(count) : 1.0;
  };
  Combined result;
  double total = 0;
  std::size_t evaluated = 0;
  for (const RowSums* layer : layers) {
    if (layer->rows() == 0) continue;
    total += layer->mean();
    ++evaluated;
  }
  if (evaluated == 0) return result;
  result.mean = total / divisor(evaluated);
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
    if (!more) return result;
    if (count > 0) result.batches.push_back(sum / divisor(count));
  }
}

/// Batches may differ by one row in size: the interval's width is theirs, its centre the mean over all rows.
Estimate centred(double mean, const std::vector<double>& batches) {
  const Estimate over_batches = student_estimate(batches);
  const double half_width = (over_batches.high - over_batches.low) / 2;
  return {.mean = mean, .low = mean - half_width, .high = mean + half_width, .count = batches.size()};
}

}  // namespace

Estimate combine_layers(const std::vector<const RowSums*>& layers, OverLayers combination) {
  const Combined metric = combined(layers, combination);
  return centred(metric.mean, metric.batches);
}

Estimate ratio_of_means(const std::vector<const RowSums*>& numerator, const std::vector<const RowSums*>& denominator,
                        double smallest) {
  const Combined above = combined(numerator, OverLayers::mean);
  const Combined below = combined(denominator, OverLayers::mean);
  if (!(below.mean >= smallest)) return {};
  const double ratio = above.mean / below.mean;
  std::vector<double> deviations;
  for (std::size_t batch = 0; batch < above.batches.size(); ++batch) {
    deviations.push_back((above.batches[batch] - ratio * below.batches[batch]) / below.mean);
  }
  return centred(ratio, deviations);
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

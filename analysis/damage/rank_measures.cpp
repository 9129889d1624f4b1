#include "analysis/damage/rank_measures.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <utility>

namespace evictsim::analysis {
namespace {

constexpr double none = std::numeric_limits<double>::quiet_NaN();

std::vector<double> ranks_of(std::span<const double> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (std::size_t first = 0; first < order.size();) {
    std::size_t last = first;
    while (last < order.size() && values[order[last]] == values[order[first]]) ++last;
    for (std::size_t place = first; place < last; ++place) {
      ranks[order[place]] = static_cast<double>(first + last - 1) / 2;
    }
    first = last;
  }
  return ranks;
}

/// Two columns of numbers.
struct Columns {
  std::vector<double> measured, predicted;
  void add(double of_measured, double of_predicted) {
    measured.push_back(of_measured);
    predicted.push_back(of_predicted);
  }
};

/// A mean that leaves out what is not available.
struct Mean {
  double sum = 0;
  std::size_t count = 0;
  void add(double value) {
    if (std::isnan(value)) return;
    sum += value;
    ++count;
  }
  [[nodiscard]] double value() const { return count == 0 ? none : sum / static_cast<double>(count); }
};

/// Adds every pair far enough apart: 1 if ordered correctly, a half if predicted alike, 0 if not.
void add_pairs(const Columns& columns, Mean& mean) {
  for (std::size_t a = 0; a < columns.measured.size(); ++a) {
    for (std::size_t b = 0; b < a; ++b) {
      const double measured = columns.measured[a] - columns.measured[b];
      const double smaller = std::min(columns.measured[a], columns.measured[b]);
      if (!(std::abs(measured) > pair_distance * smaller)) continue;
      const double predicted = columns.predicted[a] - columns.predicted[b];
      if (predicted == 0) {
        mean.add(0.5);
      } else {
        mean.add((predicted > 0) == (measured > 0) ? 1.0 : 0.0);
      }
    }
  }
}

double quantile(std::vector<double> values, double share) {
  if (values.empty()) return none;
  std::sort(values.begin(), values.end());
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return std::lerp(values[below], values[above], place - static_cast<double>(below));
}

}  // namespace

double spearman(std::span<const double> left, std::span<const double> right) {
  const std::vector<double> a = ranks_of(left);
  const std::vector<double> b = ranks_of(right);
  const double mean = (static_cast<double>(a.size()) - 1) / 2;
  double ab = 0;
  double aa = 0;
  double bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - mean) * (b[i] - mean);
    aa += (a[i] - mean) * (a[i] - mean);
    bb += (b[i] - mean) * (b[i] - mean);
  }
  return aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : none;
}

RankMeasures measure_ranks(std::span<const PredictedPoint> points) {
  // Ordered by name, so that sums do not depend on the order of the points.
  using Point = std::pair<std::string, std::string>;  // budget, policy
  std::map<Point, std::vector<const PredictedPoint*>> over_texts;
  std::map<std::string, Columns> by_text;
  std::map<Point, Columns> by_text_budget;  // text, budget
  std::set<std::string> texts;
  std::vector<double> factors;
  for (const PredictedPoint& point : points) {
    texts.insert(point.text);
    over_texts[{point.budget, point.policy}].push_back(&point);
    by_text[point.text].add(point.measured, point.predicted);
    by_text_budget[{point.text, point.budget}].add(point.measured, point.predicted);
    const double ratio = point.predicted / point.measured;
    factors.push_back(std::max(ratio, 1 / ratio));
  }

  Columns all;
  std::map<std::string, Columns> by_budget;
  for (auto& [point, of_point] : over_texts) {
    if (of_point.size() != texts.size()) continue;
    std::sort(of_point.begin(), of_point.end(),
              [](const PredictedPoint* a, const PredictedPoint* b) { return a->text < b->text; });
    double measured = 0;
    double predicted = 0;
    for (const PredictedPoint* one : of_point) {
      measured += one->measured;
      predicted += one->predicted;
    }
    const auto count = static_cast<double>(of_point.size());
    all.add(measured / count, predicted / count);
    by_budget[point.first].add(measured / count, predicted / count);
  }

  RankMeasures measures;
  measures.points = points.size();
  measures.texts = texts.size();
  measures.average = spearman(all.measured, all.predicted);
  const auto mean_of = [](const auto& groups) {
    Mean mean;
    for (const auto& [name, columns] : groups) mean.add(spearman(columns.measured, columns.predicted));
    return mean.value();
  };
  const auto pairs_of = [](const auto& groups) {
    Mean mean;
    for (const auto& [name, columns] : groups) add_pairs(columns, mean);
    return mean.value();
  };
  measures.fixed_budget = mean_of(by_budget);
  measures.pairs = pairs_of(by_budget);
  measures.within_text = mean_of(by_text);
  measures.within_text_budget = mean_of(by_text_budget);
  measures.within_text_pairs = pairs_of(by_text_budget);
  measures.factor_median = quantile(factors, 0.5);
  measures.factor_90 = quantile(std::move(factors), 0.9);
  return measures;
}

}  // namespace evictsim::analysis

#include "traces/capture/probe/statistics.h"

#include <Eigen/Dense>
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <optional>

#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

constexpr std::size_t most_coefficients = 6;

/// Least squares with the columns of `subset` only; none if they depend on each other or a coefficient is negative.
std::optional<Eigen::VectorXd> solve(const Eigen::MatrixXd& points, unsigned subset) {
  std::vector<Eigen::Index> columns;
  for (Eigen::Index c = 0; c < points.cols(); ++c) {
    if ((subset >> c & 1U) != 0) columns.push_back(c);
  }
  const Eigen::MatrixXd chosen = points(Eigen::all, columns);
  const Eigen::ColPivHouseholderQR<Eigen::MatrixXd> factors(chosen);
  if (factors.rank() < static_cast<Eigen::Index>(columns.size())) return std::nullopt;
  const Eigen::VectorXd found = factors.solve(Eigen::VectorXd::Ones(points.rows()));
  if (!found.allFinite() || (found.array() < 0).any()) return std::nullopt;
  Eigen::VectorXd all = Eigen::VectorXd::Zero(points.cols());
  for (std::size_t i = 0; i < columns.size(); ++i) all[columns[i]] = found[static_cast<Eigen::Index>(i)];
  return all;
}

}  // namespace

double quantile(std::span<const double> ascending, double share) {
  const double place = share * static_cast<double>(ascending.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, ascending.size() - 1);
  return ascending[below] + (place - static_cast<double>(below)) * (ascending[above] - ascending[below]);
}

TimeSummary summarise_times(std::span<const double> seconds, std::size_t warm_up) {
  std::vector<double> times(seconds.begin() + static_cast<std::ptrdiff_t>(std::min(warm_up, seconds.size())),
                            seconds.end());
  if (times.empty()) throw Error(ErrorCode::device_failure, "nothing was measured behind the warm-up");
  for (const double time : times) {
    if (std::isfinite(time) && time > 0) continue;
    throw Error(ErrorCode::device_failure, "the device's clock gave a time that is not above 0",
                {.file = {}, .dataset = {}, .parameter = "seconds", .value = std::to_string(time)});
  }
  std::sort(times.begin(), times.end());
  const double first = quantile(times, 0.25), third = quantile(times, 0.75);
  const double reach = 3 * (third - first);
  TimeSummary summary;
  summary.samples = times.size();
  const auto out = [&](double time) { return time < first - reach || time > third + reach; };
  summary.outliers = static_cast<std::size_t>(std::erase_if(times, out));
  summary.median = quantile(times, 0.5);
  summary.spread = quantile(times, 0.75) - quantile(times, 0.25);
  return summary;
}

NonNegativeFit fit_non_negative(const std::vector<std::vector<double>>& rows, std::span<const double> times) {
  const std::size_t count = rows.empty() ? 0 : rows.front().size();
  const bool even = std::all_of(rows.begin(), rows.end(), [&](const auto& row) { return row.size() == count; });
  if (count == 0 || count > most_coefficients || !even || rows.size() != times.size()) {
    throw Error(ErrorCode::invalid_argument, "a fit needs points with one time and as many numbers each, 1 to 6");
  }
  // Divided by its time, each point asks for 1. Columns are scaled so that their sizes do not decide about their rank.
  Eigen::MatrixXd points(static_cast<Eigen::Index>(rows.size()), static_cast<Eigen::Index>(count));
  for (Eigen::Index i = 0; i < points.rows(); ++i) {
    for (Eigen::Index c = 0; c < points.cols(); ++c) {
      points(i, c) =
          rows[static_cast<std::size_t>(i)][static_cast<std::size_t>(c)] / times[static_cast<std::size_t>(i)];
    }
  }
  Eigen::RowVectorXd scales = points.colwise().norm();
  for (double& scale : scales) scale = scale > 0 ? scale : 1;
  points.array().rowwise() /= scales.array();

  // From few coefficients to many, and leading ones first: a further one must make the fit better.
  std::vector<unsigned> subsets;
  for (unsigned subset = 1; subset < (1U << count); ++subset) subsets.push_back(subset);
  std::stable_sort(subsets.begin(), subsets.end(),
                   [](unsigned a, unsigned b) { return std::popcount(a) < std::popcount(b); });
  double least = std::numeric_limits<double>::infinity();
  Eigen::VectorXd best = Eigen::VectorXd::Zero(points.cols());
  for (const unsigned subset : subsets) {
    const auto found = solve(points, subset);
    if (!found) continue;
    const double error = (points * *found - Eigen::VectorXd::Ones(points.rows())).squaredNorm();
    constexpr double rounding = 1e-20;
    if (error < least - rounding) {
      least = error;
      best = *found;
    }
  }
  NonNegativeFit fit;
  fit.largest_relative_error = (points * best - Eigen::VectorXd::Ones(points.rows())).cwiseAbs().maxCoeff();
  for (Eigen::Index c = 0; c < best.size(); ++c) fit.coefficients.push_back(best[c] / scales[c]);
  return fit;
}

}  // namespace evictsim::traces::capture

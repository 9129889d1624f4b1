#pragma once
/// \file
/// How well constants predict measured points that they were not fitted to, and the table of docs/accuracy.md.

#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "analysis/calibration/fit.h"

namespace evictsim::analysis {

/// Prediction over measurement of every point.
struct PredictedOver {
  std::vector<double> first_token, per_output_token;
  std::vector<double> whole;  ///< time of a request from arrival to its last token
};

/// Every point predicted by constants fitted to it and others.
PredictedOver seen(std::span<const sim::MeasuredPoint* const> points,
                   const std::map<std::string, std::string>& families, const FittedConstants& fitted);

/// "2.6 | 6.1 | 10.8 | ...": median, mean and 90th percentile of relative errors in percent; time per output token,
/// then to the first one.
std::string errors_of(const PredictedOver& predicted);
/// "3.4 | 7.4 | 14.1": of one set of predictions over measurements.
std::string errors_of(std::vector<double> ratios);

/// Every point predicted by constants fitted to the points of all other folds. `fold_of` names a point's fold.
PredictedOver held_out(std::span<const sim::MeasuredPoint* const> points,
                       const std::map<std::string, std::string>& families,
                       const std::function<std::string(const sim::MeasuredPoint&)>& fold_of);

/// One of `folds` folds, by what was measured and under which load: the same measurement under two names is in one.
std::string fold_of_measurement(const sim::MeasuredPoint& point, int folds);

/// held_out() with five folds of fold_of_measurement().
PredictedOver five_folds(std::span<const sim::MeasuredPoint* const> points,
                         const std::map<std::string, std::string>& families);

/// The tables, in Markdown: five-fold by engine, GPU, model and load; leave-one-out; rows that are not predicted.
std::string accuracy_tables(std::span<const sim::MeasuredPoint> points,
                            std::span<const sim::MeasuredPoint* const> usable,
                            const std::map<std::string, std::string>& families);

/// Replaces what stands between the lines `<!-- fitted: begin -->` and `<!-- fitted: end -->` of a document. Throws
/// Error (file_not_found, missing_data, io_failure).
void replace_tables(const std::filesystem::path& document, const std::string& tables);

}  // namespace evictsim::analysis

#include "analysis/report/point_grid.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "policies/budget.h"
#include "policies/registry.h"
#include "traces/error.h"

namespace evictsim::analysis {
namespace {

using enum MetricGroup;
using enum Better;

/// Rounding to entries and blocks may carry a policy this far past its budget.
constexpr double tolerated_excess = 1.01;

// Title, unit, group, better, at most one, bounds over steps.
constexpr std::array metrics = {
    ShownMetric{Metric::output_error, "output error", "|o' - o| / |o| of a head", quality, lower, false,
                Metric::output_error_low, Metric::output_error_high},
    ShownMetric{Metric::layer_error, "layer error", "|y' - y| / |y| behind W_O", quality, lower, false,
                Metric::layer_error_low, Metric::layer_error_high},
    ShownMetric{Metric::squared_error, "squared error", "|y' - y|^2, summed over layers", quality, lower, false,
                Metric::squared_error_low, Metric::squared_error_high},
    ShownMetric{Metric::retained_mass, "retained attention mass", "share of attention", quality, higher, true,
                Metric::retained_mass_low, Metric::retained_mass_high},
    ShownMetric{Metric::dilution, "attention dilution", "share of attention", quality, lower, true,
                Metric::dilution_low, Metric::dilution_high},
    ShownMetric{Metric::predicted_kl, "predicted damage", "KL of the next token, nats", quality, lower, false,
                Metric::predicted_kl_low, Metric::predicted_kl_high},
    ShownMetric{Metric::regret, "regret against the oracle", "share of attention", quality, lower, true,
                Metric::regret_low, Metric::regret_high},
    ShownMetric{Metric::normalised_regret, "normalised regret", "0: oracle, 1: random", quality, lower, false,
                Metric::normalised_regret_low, Metric::normalised_regret_high},
    ShownMetric{Metric::premature_evictions, "premature evictions", "share of the entries attended most", quality,
                lower, true, Metric::premature_evictions_low, Metric::premature_evictions_high},
    ShownMetric{Metric::output_error_p95, "output error, 95th percentile", "|o' - o| / |o| of a head", quality, lower},
    ShownMetric{Metric::output_error_p99, "output error, 99th percentile", "|o' - o| / |o| of a head", quality, lower},
    ShownMetric{Metric::entropy, "entropy of attention", "nats", quality, neither, false, Metric::entropy_low,
                Metric::entropy_high},
    ShownMetric{Metric::oracle_overlap, "overlap with the oracle", "share of kept entries", quality, higher, true},
    ShownMetric{Metric::span_retention, "evidence kept", "share of evidence entries", quality, higher, true},
    ShownMetric{Metric::kept_fraction, "entries kept", "share of the prompt", memory, neither, true},
    ShownMetric{Metric::kept_bytes, "bytes kept in HBM", "bytes", memory, lower},
    ShownMetric{Metric::resident_bytes, "bytes attended", "bytes", memory, lower, false, Metric::resident_bytes_low,
                Metric::resident_bytes_high},
    ShownMetric{Metric::host_bytes, "bytes on the host", "bytes", memory, lower},
    ShownMetric{Metric::disk_bytes, "bytes on disk", "bytes", memory, lower},
    ShownMetric{Metric::recall_bytes_per_step, "bytes recalled per step", "bytes", memory, lower},
    ShownMetric{Metric::recall_bytes_host_per_step, "bytes recalled from the host per step", "bytes", memory, lower},
    ShownMetric{Metric::recall_bytes_disk_per_step, "bytes recalled from disk per step", "bytes", memory, lower},
    ShownMetric{Metric::written_bytes_per_step, "bytes written per step", "bytes", memory, lower},
    ShownMetric{Metric::scanned_bytes_per_step, "bytes scanned per step", "bytes", memory, lower},
    ShownMetric{Metric::evictions_per_step, "entries cut per step", "entries per layer and head", memory, neither,
                false, Metric::evictions_per_step_low, Metric::evictions_per_step_high},
    ShownMetric{Metric::recall_hit_share, "attended entries found in HBM", "share", memory, higher, true},
    ShownMetric{Metric::scored_entries_per_step, "entries scored per step", "entries", work, lower},
    ShownMetric{Metric::cuts, "cuts", "per layer", work, lower},
};

}  // namespace

std::span<const ShownMetric> shown_metrics() { return metrics; }

const ShownMetric& shown_metric(const std::string& name, const std::string& parameter) {
  std::string known;
  for (const ShownMetric& metric : metrics) {
    if (name == metric.name()) return metric;
    known += (known.empty() ? "" : ", ") + std::string(metric.name());
  }
  throw Error(ErrorCode::unknown_name, "must be one of " + known, {.parameter = parameter, .value = name});
}

const char* to_string(PolicyKind kind) noexcept {
  switch (kind) {
    case PolicyKind::oracle:
      return "oracle";
    case PolicyKind::full:
      return "full";
    default:
      return "policy";
  }
}

PolicyKind kind_of(const std::string& expansion) {
  if (expansion == "compose(allocator=uniform(),schedule=never())") return PolicyKind::full;
  std::set<std::string> oracles;
  for (const policies::Part* part : policies::registered_parts()) {
    if (std::string_view(part->kind()) == "oracle") oracles.insert(part->name);
  }
  std::string word;
  for (const char letter : expansion + ' ') {
    if (std::isalnum(static_cast<unsigned char>(letter)) != 0 || letter == '_') {
      word += letter;
      continue;
    }
    if (oracles.contains(word)) return PolicyKind::oracle;
    word.clear();
  }
  return PolicyKind::policy;
}

PointGrid::PointGrid(const RunContents& contents) : contents_(&contents) {
  std::map<std::pair<std::string, std::string>, std::size_t> known;
  for (std::size_t row = 0; row < contents.rows.size(); ++row) {
    const auto [place, is_new] =
        known.try_emplace({contents.rows[row].trace, contents.rows[row].sequence}, sequences_.size());
    if (is_new) sequences_.push_back(row);
    sequence_of_.push_back(place->second);
  }
  fill_budgets();
  fill_points();
}

void PointGrid::fill_budgets() {
  double length = 0;
  for (const std::size_t row : sequences_) length += static_cast<double>(contents_->rows[row].prompt_length);
  length /= static_cast<double>(std::max<std::size_t>(sequences_.size(), 1));
  std::set<std::string> seen;
  for (const RunRow& row : contents_->rows) {
    if (!seen.insert(row.budget).second) continue;
    const policies::Budget budget = policies::Budget::parse(row.budget);
    const double share = budget.in_entries() ? budget.value() / std::max(length, 1.0) : budget.value();
    budgets_.push_back({row.budget, budget.value(), std::min(share, 1.0)});
  }
  std::stable_sort(budgets_.begin(), budgets_.end(),
                   [](const Budget& left, const Budget& right) { return left.share < right.share; });
}

void PointGrid::fill_points() {
  std::map<std::string, std::size_t> policy_of, budget_of;
  for (std::size_t budget = 0; budget < budgets_.size(); ++budget) budget_of.emplace(budgets_[budget].text, budget);
  const auto about = [&](const std::string& name) {
    const auto known = std::find_if(contents_->policies.begin(), contents_->policies.end(),
                                    [&](const RunContents::Policy& policy) { return policy.name == name; });
    return known == contents_->policies.end() ? RunContents::Policy{name, {}, {}} : *known;
  };
  for (const RunRow& row : contents_->rows) {
    if (!row.ok() || !policy_of.try_emplace(row.policy, policies_.size()).second) continue;
    policies_.push_back({about(row.policy), PolicyKind::policy});
    policies_.back().kind = kind_of(policies_.back().about.expansion);
  }
  for (const RunContents::Policy& policy : contents_->policies) {
    if (!policy_of.contains(policy.name)) left_out_.push_back(policy);
  }
  points_.resize(policies_.size() * budgets_.size());
  const auto place_of = [&](const std::string& policy, const std::string& budget) -> Point* {
    const auto known = policy_of.find(policy);
    return known == policy_of.end() ? nullptr : &points_[known->second * budgets_.size() + budget_of.at(budget)];
  };
  for (PointSummary& summary : summarise(contents_->rows)) {
    if (Point* point = place_of(summary.policy, summary.budget)) point->summary = std::move(summary);
  }
  std::vector<double> kept(points_.size(), 0), allowed(points_.size(), 0);
  for (std::size_t index = 0; index < contents_->rows.size(); ++index) {
    const RunRow& row = contents_->rows[index];
    Point* point = row.ok() ? place_of(row.policy, row.budget) : nullptr;
    if (point == nullptr) continue;
    point->rows.push_back(index);
    const auto place = static_cast<std::size_t>(point - points_.data());
    const auto prompt = static_cast<double>(row.prompt_length);
    const policies::Budget budget = policies::Budget::parse(row.budget);
    const double share = std::min(1.0, budget.in_entries() ? budget.value() / prompt : budget.value());
    kept[place] += row[Metric::kept_bytes];
    allowed[place] += share * (index < contents_->full_bytes.size() ? contents_->full_bytes[index] : not_available);
  }
  for (std::size_t place = 0; place < points_.size(); ++place) {
    if (points_[place].rows.empty() || std::isnan(kept[place]) || std::isnan(allowed[place])) continue;
    points_[place].within = kept[place] <= allowed[place] * tolerated_excess;
  }
}

IntervalOver PointGrid::interval_over(const ShownMetric& metric) const {
  bool bounded = false;
  for (const Point& point : points_) {
    if (!std::isnan(point.summary[metric.metric].low)) return IntervalOver::sequences;
    bounded = bounded || (metric.low && !std::isnan(point.summary[*metric.low].mean));
  }
  if (!bounded) return IntervalOver::nothing;
  return metric.metric == Metric::predicted_kl ? IntervalOver::calibration : IntervalOver::steps;
}

Estimate PointGrid::value(const ShownMetric& metric, std::size_t policy, std::size_t budget) const {
  const PointSummary& summary = at(policy, budget).summary;
  Estimate estimate = summary[metric.metric];
  const IntervalOver over = interval_over(metric);
  if (over == IntervalOver::steps || over == IntervalOver::calibration) {
    estimate.low = summary[*metric.low].mean;
    estimate.high = summary[*metric.high].mean;
  }
  return estimate;
}

bool PointGrid::has(const ShownMetric& metric) const {
  return std::any_of(points_.begin(), points_.end(),
                     [&](const Point& point) { return !std::isnan(point.summary[metric.metric].mean); });
}

const ShownMetric* PointGrid::default_metric() const {
  const auto every_row_has = [&](const ShownMetric& metric) {
    return std::all_of(contents_->rows.begin(), contents_->rows.end(),
                       [&](const RunRow& row) { return !row.ok() || !std::isnan(row[metric.metric]); });
  };
  const ShownMetric* first = nullptr;
  for (const ShownMetric& metric : shown_metrics()) {
    if (metric.group != quality || metric.better == neither || !has(metric)) continue;
    if (metric.metric == Metric::predicted_kl && every_row_has(metric)) return &metric;
    if (first == nullptr) first = &metric;
  }
  return first;
}

std::vector<PointGrid::SequenceValue> PointGrid::by_sequence(const ShownMetric& metric, std::size_t policy,
                                                             std::size_t budget) const {
  std::vector<SequenceValue> values;
  for (const std::size_t index : at(policy, budget).rows) {
    const RunRow& row = contents_->rows[index];
    if (!std::isnan(row[metric.metric])) values.push_back({row.trace, row.sequence, row[metric.metric]});
  }
  return values;
}

}  // namespace evictsim::analysis

#include "analysis/memory_profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <utility>

#include "policies/budget.h"
#include "policies/names.h"
#include "traces/error.h"

namespace evictsim::analysis {
namespace {

/// Classes of heads that keep about as much: pages are rounded up for each.
constexpr std::size_t most_groups = 16;
/// A drift below that many entries over all decode rows is none.
constexpr double smallest_drift = 1;

double known(double value) { return std::isfinite(value) && value > 0 ? value : 0; }

/// A head of its own pages, or a layer whose heads have those of the longest.
struct Element {
  double kept = 0;  ///< scaled
  std::int64_t weight = 0;
};

/// A straight line over decoded tokens.
struct Line {
  double level = 0, growth = 0;
};

/// Mean over the heads of a layer, or its longest head.
double of_layer(std::span<const std::int32_t> heads, PageRule rule) {
  if (rule == PageRule::longest) return *std::max_element(heads.begin(), heads.end());
  double sum = 0;
  for (const std::int32_t entries : heads) sum += entries;
  return sum / static_cast<double>(heads.size());
}

/// Entries attended by the later half of the sampled rows, when caches have reached their level, as a line through
/// their mean. None where no row was evaluated.
std::optional<Line> attended_line(const RecordedCache& cache, PageRule rule) {
  std::vector<std::pair<double, double>> points;  // decoded tokens, entries
  for (std::size_t sample = cache.steps.size() / 2; sample < cache.steps.size(); ++sample) {
    double sum = 0, weight = 0;
    for (const LayerSizes& layer : cache.layers) {
      const std::size_t heads = layer.kept.size();
      const auto row = std::span(layer.resident).subspan(sample * heads, heads);
      if (std::find(row.begin(), row.end(), not_sampled) != row.end()) continue;
      sum += of_layer(row, rule) * static_cast<double>(heads);
      weight += static_cast<double>(heads);
    }
    if (weight == 0) continue;
    points.emplace_back(static_cast<double>(cache.steps[sample] + 1 - cache.row.prompt_length), sum / weight);
  }
  if (points.empty()) return std::nullopt;
  double x = 0, y = 0;
  for (const auto& [decoded, entries] : points) {
    x += decoded / static_cast<double>(points.size());
    y += entries / static_cast<double>(points.size());
  }
  double covariance = 0, variance = 0;
  for (const auto& [decoded, entries] : points) {
    covariance += (decoded - x) * (entries - y);
    variance += (decoded - x) * (decoded - x);
  }
  double growth = variance > 0 ? std::clamp(covariance / variance, 0.0, 1.0) : 0;
  const auto rows = static_cast<double>(cache.steps.back() + 1 - cache.row.prompt_length);
  if (growth * rows < smallest_drift) growth = 0;
  if ((1 - growth) * rows < smallest_drift) growth = 1;
  return Line{std::max(0.0, y - growth * x), growth};
}

/// The rows of one policy at one budget.
class Point {
 public:
  Point(const RecordedCache& first, PageRule rule) : rule_(rule), budget_(policies::Budget::parse(first.row.budget)) {
    profile_.policy = first.row.policy;
    profile_.budget = first.row.budget;
    profile_.in_entries = budget_.in_entries();
    profile_.stored_per_entry = 0;
  }

  [[nodiscard]] bool holds(const RunRow& row) const {
    return row.policy == profile_.policy && row.budget == profile_.budget;
  }

  void add(const RecordedCache& cache) {
    ++rows_;
    prompt_ = static_cast<double>(cache.row.prompt_length);
    places_ = static_cast<double>(cache.layers.size()) * static_cast<double>(cache.kv_heads);
    profile_.kv_heads += static_cast<std::int64_t>(cache.layers.size()) * cache.kv_heads;
    error_ += cache.row[Metric::output_error];
    predicted_kl_ += cache.row[Metric::predicted_kl];
    const double kept = add_elements(cache);
    const double per_place = 1 / (places_ * cache.entry_bytes);
    const bool placed = cache.layers.front().placed;
    add_stored(cache, placed, kept, per_place);
    add_lines(cache, placed, kept);
    add_work(cache, per_place);
  }

  sim::CacheProfile finish() {
    const double share = 1 / static_cast<double>(rows_);
    group_elements();
    profile_.output_error = error_ * share;
    profile_.predicted_kl = predicted_kl_ * share;
    for (double* sum : {&profile_.stored_per_entry, &profile_.stored_share, &profile_.scored, &profile_.scanned_share,
                        &profile_.recalled, &profile_.host_share}) {
      *sum *= share;
    }
    if (held_rows_ > 0) {
      profile_.level = held_.level / held_rows_;
      profile_.growth = held_.growth / held_rows_;
    } else if (placed_rows_ > 0) {
      profile_.growth = placed_growth_ / placed_rows_;
    }
    if (attended_rows_ > 0) {
      profile_.attended = {attended_.level / attended_rows_, attended_share_ / attended_rows_,
                           attended_.growth / attended_rows_};
    }
    return std::move(profile_);
  }

 private:
  [[nodiscard]] double scaled(double entries) const { return profile_.in_entries ? entries : entries / prompt_; }

  /// Entries kept per KV head, mean.
  double add_elements(const RecordedCache& cache) {
    double sum = 0;
    for (const LayerSizes& layer : cache.layers) {
      for (const std::int32_t entries : layer.kept) sum += entries;
      if (rule_ == PageRule::longest) {
        add_element(of_layer(layer.kept, rule_), static_cast<std::int64_t>(layer.kept.size()));
      } else {
        for (const std::int32_t entries : layer.kept) add_element(entries, 1);
      }
    }
    return sum / places_;
  }
  void add_element(double entries, std::int64_t weight) {
    // A prompt that was not cut, though the budget was smaller, is kept at any length; else the budget was not reached.
    const bool whole = profile_.in_entries && entries >= prompt_;
    const double limit = prompt_ > budget_.value() ? sim::CacheProfile::everything : budget_.value();
    elements_.push_back({whole ? limit : scaled(entries), weight});
  }

  void add_stored(const RecordedCache& cache, bool placed, double kept, double per_place) {
    stored_ = placed ? cache.row[Metric::kept_bytes] * per_place : kept;
    host_ = known(cache.row[Metric::host_bytes]) * per_place;
    profile_.stored_per_entry += kept > 0 ? std::min(1.0, stored_ / kept) : 1;
    profile_.stored_share += std::max(0.0, stored_ - kept) / prompt_;
    profile_.host_share += host_ / prompt_;
  }

  void add_lines(const RecordedCache& cache, bool placed, double kept) {
    const double evictions = known(cache.row[Metric::evictions_per_step]);
    const std::optional<Line> line = attended_line(cache, rule_);
    if (placed) {
      // What is cut in decode takes as much of HBM as what was cut of the prompt.
      const double cut = kept < prompt_ ? std::max(0.0, stored_ - kept) / (prompt_ - kept) : 0;
      const double growth = std::clamp(1 - evictions + evictions * cut, 0.0, 1.0);
      placed_rows_ += 1;
      placed_growth_ += growth;
      if (!line) return;
      // What is attended where it lies is read as it is stored, perhaps quantised; what is fetched is whole.
      const bool in_place = host_ == 0 && known(cache.row[Metric::recall_bytes_per_step]) == 0;
      attended_rows_ += 1;
      const double level = line->level * (in_place ? std::min(1.0, stored_ / prompt_) : 1);
      if (line->level >= prompt_) {
        attended_share_ += level / prompt_;
      } else {
        attended_.level += scaled(level);
      }
      attended_.growth += line->growth * (in_place ? growth : 1);
    } else if (evictions > 0 && line) {
      held_rows_ += 1;
      held_.level += scaled(line->level);
      held_.growth += line->growth;
    }
  }

  void add_work(const RecordedCache& cache, double per_place) {
    const RunRow& row = cache.row;
    if (cache.steps.empty()) return;
    const double decoded = cache.steps.back() + 1 - prompt_;
    // What was scored for the prompt's cut is in the sum over all cuts.
    const double scored = known(row[Metric::scored_entries_per_step]) * decoded - cache.prompt_scored_entries;
    profile_.scored += scaled(std::max(0.0, std::round(scored)) / decoded / places_);
    const double context = (cache.steps.front() + cache.steps.back()) / 2.0 + 1;
    profile_.scanned_share += known(row[Metric::scanned_bytes_per_step]) * per_place / context;
    profile_.recalled += scaled(known(row[Metric::recall_bytes_per_step]) * per_place);
  }

  /// Neighbours by size, in classes of about equal weight.
  void group_elements() {
    std::sort(elements_.begin(), elements_.end(),
              [](const Element& left, const Element& right) { return left.kept < right.kept; });
    std::int64_t all = 0, seen = 0;
    for (const Element& element : elements_) all += element.weight;
    std::size_t group = 0;
    for (const Element& element : elements_) {
      const auto wanted = static_cast<std::size_t>(seen * static_cast<std::int64_t>(most_groups) / all);
      const bool limited = element.kept < sim::CacheProfile::everything;
      const bool first = profile_.heads.empty();
      const bool equal = !first && profile_.heads.back().kept == element.kept;
      const bool mixed = !first && limited != (profile_.heads.back().kept < sim::CacheProfile::everything);
      if (first || mixed || (wanted != group && !equal)) profile_.heads.emplace_back();
      group = wanted;
      sim::CacheProfile::Heads& heads = profile_.heads.back();
      heads.weight += element.weight;
      // The running mean of equal numbers is that number, exactly.
      heads.kept +=
          (element.kept - heads.kept) * (static_cast<double>(element.weight) / static_cast<double>(heads.weight));
      seen += element.weight;
    }
  }

  PageRule rule_;
  policies::Budget budget_;
  sim::CacheProfile profile_;  ///< amounts are sums over rows until finish()
  std::vector<Element> elements_;
  int rows_ = 0;
  double error_ = 0, predicted_kl_ = 0;
  Line held_, attended_;
  double attended_share_ = 0, held_rows_ = 0, attended_rows_ = 0, placed_rows_ = 0, placed_growth_ = 0;
  // Of the row being added: places are layers times KV heads; entries of HBM and host memory per place.
  double prompt_ = 0, places_ = 0, stored_ = 0, host_ = 0;
};

bool same_budget(const std::string& left, const std::string& right) {
  return left == right || policies::Budget::parse(left) == policies::Budget::parse(right);
}

}  // namespace

std::vector<sim::CacheProfile> memory_profiles(const std::vector<RecordedCache>& caches, PageRule rule) {
  std::vector<Point> points;
  for (const RecordedCache& cache : caches) {
    auto point = std::find_if(points.begin(), points.end(), [&](const Point& known) { return known.holds(cache.row); });
    if (point == points.end()) point = points.insert(points.end(), Point(cache, rule));
    point->add(cache);
  }
  std::vector<sim::CacheProfile> profiles;
  for (Point& point : points) profiles.push_back(point.finish());
  return profiles;
}

const sim::CacheProfile& find_profile(const std::vector<sim::CacheProfile>& profiles, const std::string& policy,
                                      const std::string& budget, const std::string& file) {
  std::vector<std::string> names, budgets;
  for (const sim::CacheProfile& profile : profiles) {
    if (profile.policy == policy && same_budget(profile.budget, budget)) return profile;
    if (profile.policy == policy) budgets.push_back(profile.budget);
    if (std::find(names.begin(), names.end(), profile.policy) == names.end()) names.push_back(profile.policy);
  }
  if (budgets.empty()) {
    throw Error(ErrorCode::unknown_name,
                fmt::format("the run file has no such policy; it has {}", policies::join(names)),
                {.file = file, .parameter = "--policy", .value = policy});
  }
  throw Error(ErrorCode::unknown_name, fmt::format("the run file has '{}' at {} only", policy, policies::join(budgets)),
              {.file = file, .parameter = "--budget", .value = budget});
}

}  // namespace evictsim::analysis

#include "analysis/report/run_detail.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <tuple>
#include <utility>

namespace evictsim::analysis {
namespace {

constexpr std::array head_metrics = {"output_error",        "retained_mass", "dilution",
                                     "premature_evictions", "regret",        "entropy"};
constexpr std::array step_metrics = {"output_error",        "layer_error", "retained_mass",     "dilution",
                                     "premature_evictions", "regret",      "evictions_per_step"};
constexpr std::array stored_metrics = {"stored_hbm_bytes", "stored_host_bytes", "stored_disk_bytes"};

/// Means of values that come one by one for places of an array.
class Means {
 public:
  Means() = default;
  explicit Means(std::size_t size) : sums_(size, 0), counts_(size, 0) {}
  void add(std::size_t place, double value) {
    if (std::isnan(value)) return;
    sums_[place] += value;
    ++counts_[place];
  }
  [[nodiscard]] bool any() const {
    return std::any_of(counts_.begin(), counts_.end(), [](double count) { return count > 0; });
  }
  [[nodiscard]] std::vector<double> take() const {
    std::vector<double> means(sums_.size(), not_available);
    for (std::size_t i = 0; i < sums_.size(); ++i) {
      if (counts_[i] > 0) means[i] = sums_[i] / counts_[i];
    }
    return means;
  }

 private:
  std::vector<double> sums_, counts_;
};

/// `visit(place of the point, row)` for every row behind every point.
template <typename Visit>
void for_each_row(const PointGrid& grid, Visit visit) {
  const std::size_t budgets = grid.budgets().size();
  for (std::size_t place = 0; place < grid.size(); ++place) {
    for (const std::size_t row : grid.at(place / budgets, place % budgets).rows) visit(place, row);
  }
}

/// Means over sequences of metrics that a run file may hold, each [points, extent].
class MetricMeans {
 public:
  MetricMeans(std::span<const char* const> names, std::size_t points, std::size_t extent) {
    for (const char* name : names) means_.emplace_back(name, Means(points * extent));
  }
  [[nodiscard]] auto begin() { return means_.begin(); }
  [[nodiscard]] auto end() { return means_.end(); }
  [[nodiscard]] std::vector<DetailGrid> take() const {
    std::vector<DetailGrid> grids;
    for (const auto& [name, means] : means_) {
      if (means.any()) grids.push_back({name, means.take()});
    }
    return grids;
  }

 private:
  std::vector<std::pair<std::string, Means>> means_;
};

/// Which policies and budgets of the grid fit when at most `points` points may be shown: all of them, or three budgets
/// (the ends and the middle) of the policies that come first, then fewer budgets.
std::pair<std::vector<std::size_t>, std::vector<std::size_t>> fitting(const PointGrid& grid, std::size_t points) {
  std::vector<std::size_t> policies(grid.policies().size()), budgets(grid.budgets().size());
  for (std::size_t i = 0; i < policies.size(); ++i) policies[i] = i;
  for (std::size_t i = 0; i < budgets.size(); ++i) budgets[i] = i;
  if (policies.size() * budgets.size() > points && budgets.size() > 3) {
    budgets = {0, budgets.size() / 2, budgets.size() - 1};
  }
  budgets.resize(std::min(budgets.size(), points));
  if (!budgets.empty()) policies.resize(std::min(policies.size(), points / budgets.size()));
  return {policies, budgets};
}

/// The row of this point that is about this sequence.
std::optional<std::size_t> row_of(const PointGrid& grid, std::size_t policy, std::size_t budget, std::size_t sequence) {
  for (const std::size_t row : grid.at(policy, budget).rows) {
    if (grid.sequence_of(row) == sequence) return row;
  }
  return std::nullopt;
}

/// Reads `metric` of the chosen points, [policies, budgets, length]; empty where no point has it.
std::vector<double> entries_of(const PointGrid& grid, const RunReader& reader, const TokenMaps& maps,
                               const char* metric) {
  std::vector<double> values(maps.policies.size() * maps.budgets.size() * maps.length, not_available);
  bool any = false;
  auto out = values.begin();
  for (const std::size_t policy : maps.policies) {
    for (const std::size_t budget : maps.budgets) {
      const auto row = row_of(grid, policy, budget, maps.sequence);
      if (const auto array = row ? reader.detail(*row, metric, "entry") : std::nullopt) {
        any = true;
        std::copy_n(array->values.begin(), std::min(array->values.size(), maps.length), out);
      }
      out += static_cast<std::ptrdiff_t>(maps.length);
    }
  }
  if (!any) values.clear();
  return values;
}

void fill_heads(const PointGrid& grid, const RunReader& reader, std::size_t most_bytes, TokenMaps& maps) {
  // Policies with one cache per query head have more rows than the others, and are left out.
  std::optional<KeptBits> pattern;
  for (const std::size_t policy : maps.policies) {
    const auto row = row_of(grid, policy, maps.budgets.front(), maps.sequence);
    auto kept = row ? reader.kept(*row) : std::nullopt;
    if (!kept || kept->entries != maps.length || kept->bytes.empty() || (pattern && pattern->heads <= kept->heads)) {
      continue;
    }
    pattern = std::move(kept);
    maps.layers = reader.layers(*row);
  }
  if (!pattern) return;
  std::tie(maps.head_policies, maps.head_budgets) = fitting(grid, most_bytes / pattern->bytes.size());
  if (maps.head_policies.empty() || maps.head_budgets.empty()) return;
  maps.heads = pattern->heads;
  std::vector<std::size_t> same;
  for (const std::size_t policy : maps.head_policies) {
    std::vector<std::uint8_t> bits;
    bool complete = true;
    for (const std::size_t budget : maps.head_budgets) {
      const auto row = row_of(grid, policy, budget, maps.sequence);
      const auto kept = row ? reader.kept(*row) : std::nullopt;
      complete = complete && kept && kept->bytes.size() == pattern->bytes.size() && kept->heads == pattern->heads;
      if (complete) bits.insert(bits.end(), kept->bytes.begin(), kept->bytes.end());
    }
    if (!complete) continue;
    same.push_back(policy);
    maps.bits.insert(maps.bits.end(), bits.begin(), bits.end());
  }
  maps.head_policies = std::move(same);
}

}  // namespace

std::optional<HeadMaps> head_maps(const PointGrid& grid, const RunReader& reader) {
  HeadMaps maps;
  std::optional<MetricMeans> means;
  std::vector<std::uint8_t> counted(grid.sequences().size(), 0);
  for_each_row(grid, [&](std::size_t place, std::size_t row) {
    const auto first = reader.detail(row, head_metrics.front(), "layer,head");
    if (!first) return;
    const std::vector<std::int32_t> layers = reader.layers(row);
    if (!means) {
      maps.layers = layers;
      maps.heads = first->shape[1];
      means.emplace(head_metrics, grid.size(), maps.layers.size() * maps.heads);
    }
    const std::size_t extent = maps.layers.size() * maps.heads;
    if (layers != maps.layers || first->values.size() != extent) return;
    counted[grid.sequence_of(row)] = 1;
    for (auto& [name, mean] : *means) {
      const auto array = name == head_metrics.front() ? first : reader.detail(row, name, "layer,head");
      if (!array || array->values.size() != extent) continue;
      for (std::size_t i = 0; i < extent; ++i) mean.add(place * extent + i, array->values[i]);
    }
  });
  if (!means) return std::nullopt;
  maps.sequences = static_cast<std::size_t>(std::count(counted.begin(), counted.end(), 1));
  maps.metrics = means->take();
  return maps;
}

std::optional<StepCurves> step_curves(const PointGrid& grid, const RunReader& reader) {
  // Steps of every sequence, as far as there are arrays by step.
  std::vector<std::vector<std::int32_t>> steps(grid.sequences().size());
  std::int32_t most = 0;
  for_each_row(grid, [&](std::size_t /*place*/, std::size_t row) {
    std::vector<std::int32_t>& mine = steps[grid.sequence_of(row)];
    if (!mine.empty() || !reader.detail(row, step_metrics.front(), "step")) return;
    mine = reader.steps(row);
    for (std::int32_t& step : mine) step -= static_cast<std::int32_t>(grid.contents().rows[row].prompt_length);
    if (!mine.empty()) most = std::max(most, mine.back() + 1);
  });
  if (most <= 0) return std::nullopt;
  StepCurves curves;
  const std::int32_t width =
      (most + static_cast<std::int32_t>(StepCurves::most_bins) - 1) / static_cast<std::int32_t>(StepCurves::most_bins);
  for (std::int32_t step = 0; step < most; step += width) curves.steps.push_back(step);
  const std::size_t bins = curves.steps.size();
  MetricMeans metrics(step_metrics, grid.size(), bins), stored(stored_metrics, grid.size(), bins);
  for_each_row(grid, [&](std::size_t place, std::size_t row) {
    const std::vector<std::int32_t>& mine = steps[grid.sequence_of(row)];
    for (MetricMeans* group : {&metrics, &stored}) {
      for (auto& [name, mean] : *group) {
        const auto array = reader.detail(row, name, "step");
        if (!array || array->values.size() != mine.size()) continue;
        for (std::size_t i = 0; i < mine.size(); ++i) {
          if (mine[i] >= 0) mean.add(place * bins + static_cast<std::size_t>(mine[i] / width), array->values[i]);
        }
      }
    }
  });
  curves.metrics = metrics.take();
  curves.stored = stored.take();
  return curves;
}

std::optional<PositionMeans> position_means(const PointGrid& grid, const RunReader& reader) {
  std::int64_t longest = 0;
  for (const std::size_t row : grid.sequences()) longest = std::max(longest, grid.contents().rows[row].prompt_length);
  const std::size_t bins = std::min(PositionMeans::most_bins, static_cast<std::size_t>(longest));
  if (bins == 0) return std::nullopt;
  PositionMeans means;
  for (std::size_t bin = 0; bin <= bins; ++bin) {
    means.edges.push_back(
        static_cast<std::int32_t>(longest * static_cast<std::int64_t>(bin) / static_cast<std::int64_t>(bins)));
  }
  const auto extent = [&](std::size_t bin, const DetailArray& array) {
    const auto begin = static_cast<std::size_t>(means.edges[bin]), end = static_cast<std::size_t>(means.edges[bin + 1]);
    return std::pair(std::min(begin, array.values.size()), std::min(end, array.values.size()));
  };
  Means evicted(grid.size() * bins), lost(grid.size() * bins);
  for_each_row(grid, [&](std::size_t place, std::size_t row) {
    const auto kept = reader.detail(row, "entry_kept", "entry");
    if (!kept) return;
    auto lost_mass = reader.detail(row, "entry_lost_mass", "entry");
    // What follows the prompt are decoded entries.
    if (lost_mass) lost_mass->values.resize(std::min(lost_mass->values.size(), kept->values.size()));
    for (std::size_t bin = 0; bin < bins; ++bin) {
      const auto [begin, end] = extent(bin, *kept);
      double sum = 0;
      for (std::size_t i = begin; i < end; ++i) sum += kept->values[i];
      if (begin < end) evicted.add(place * bins + bin, 1 - sum / static_cast<double>(end - begin));
      if (!lost_mass || begin == end) continue;
      double mass = 0;
      for (std::size_t i = begin; i < std::min(end, lost_mass->values.size()); ++i) mass += lost_mass->values[i];
      lost.add(place * bins + bin, mass);
    }
  });
  if (!evicted.any()) return std::nullopt;
  means.evicted = evicted.take();
  if (lost.any()) means.lost = lost.take();
  return means;
}

std::vector<TokenMaps> token_maps(const PointGrid& grid, const RunReader& reader, const TokenLimits& limits,
                                  std::size_t& left_out) {
  std::vector<TokenMaps> all;
  std::size_t elements = 0, bytes = 0;
  left_out = 0;
  for (std::size_t sequence = 0; sequence < grid.sequences().size(); ++sequence) {
    TokenMaps maps;
    maps.sequence = sequence;
    maps.length = static_cast<std::size_t>(
        std::max<std::int64_t>(0, grid.contents().rows[grid.sequences()[sequence]].prompt_length));
    if (maps.length == 0) continue;
    std::tie(maps.policies, maps.budgets) = fitting(grid, (limits.elements - elements) / maps.length);
    if (maps.policies.empty() || maps.budgets.empty()) {
      ++left_out;
      continue;
    }
    maps.kept = entries_of(grid, reader, maps, "entry_kept");
    if (maps.kept.empty()) continue;
    maps.lost = entries_of(grid, reader, maps, "entry_lost_mass");
    maps.premature = entries_of(grid, reader, maps, "entry_premature");
    fill_heads(grid, reader, limits.head_bytes - bytes, maps);
    elements += maps.kept.size();
    bytes += maps.bits.size();
    all.push_back(std::move(maps));
  }
  return all;
}

}  // namespace evictsim::analysis

#include "tests/golden/agreement.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <set>

#include <fmt/format.h>

namespace evictsim::test {
namespace {

/// The two highest distinct scores of a layer tell whether the highest is the protection value max + 1.
double protection_value(const Scores& golden) {
  double highest = -std::numeric_limits<double>::infinity();
  double second = highest;
  for (const auto& head : golden) {
    for (const double score : head) {
      if (score > highest) {
        second = highest;
        highest = score;
      } else if (score < highest && score > second) {
        second = score;
      }
    }
  }
  const bool is_one_above = std::abs(highest - second - 1.0) <= 1e-6 * std::max(1.0, std::abs(highest));
  return is_one_above ? highest : std::numeric_limits<double>::infinity();
}

bool is_largest_float(double score) { return score > 3e38; }

/// Swapped entries must lie within `slack` of the head's cut.
std::string swap_fault(const std::vector<double>& scores, const std::vector<std::int32_t>& golden,
                       const std::vector<std::int32_t>& ours, double slack) {
  const std::set<std::int32_t> wanted(golden.begin(), golden.end());
  double lowest_kept = std::numeric_limits<double>::infinity();
  double highest_dropped = -lowest_kept;
  for (std::size_t row = 0; row < scores.size(); ++row) {
    if (wanted.contains(static_cast<std::int32_t>(row))) {
      lowest_kept = std::min(lowest_kept, scores[row]);
    } else {
      highest_dropped = std::max(highest_dropped, scores[row]);
    }
  }
  const std::set<std::int32_t> got(ours.begin(), ours.end());
  for (const std::int32_t row : golden) {
    const double score = scores[static_cast<std::size_t>(row)];
    if (!got.contains(row) && score > lowest_kept + slack) {
      return fmt::format("lost entry {} with score {} above the cut at {}", row, score, lowest_kept);
    }
  }
  for (const std::int32_t row : ours) {
    const double score = scores[static_cast<std::size_t>(row)];
    if (!wanted.contains(row) && score < std::min(lowest_kept, highest_dropped) - slack) {
      return fmt::format("kept entry {} with score {} below the cut at {}", row, score, lowest_kept);
    }
  }
  return {};
}

}  // namespace

std::string golden_path(const std::string& name) {
  return std::string(EVICTSIM_SOURCE_DIR) + "/tests/golden/data/" + name;
}

ReplayCollector replay_golden(const std::string& trace, const std::string& policy, const policies::Budget& budget,
                              bool with_resident) {
  std::vector<traces::Reader> readers;
  readers.emplace_back(golden_path(trace + ".h5"));
  ReplayCollector collector;
  const std::atomic<bool> stop = false;
  sim::replay(readers, sim::ReplayPlan::of({policies::parse_policy(policy)}, {budget}),
              {.with_scores = true, .with_resident = with_resident}, collector, stop);
  if (!collector.failed_policies.empty()) throw std::runtime_error(collector.failed_policies.begin()->second);
  return collector;
}

void Agreement::add(const Agreement& other) {
  largest_difference = std::max(largest_difference, other.largest_difference);
  spread = std::max(spread, other.spread);
  equal_sets += other.equal_sets;
  tied_sets += other.tied_sets;
  wrong_sets += other.wrong_sets;
  if (first_fault.empty()) first_fault = other.first_fault;
}

bool is_protected(const Scores& golden, double score) { return score == protection_value(golden); }

double spread_of(const Scores& golden) {
  const double protection = protection_value(golden);
  double lowest = std::numeric_limits<double>::infinity();
  double highest = -lowest;
  for (const auto& head : golden) {
    for (const double score : head) {
      if (score == protection || is_largest_float(score) || std::isnan(score)) continue;
      lowest = std::min(lowest, score);
      highest = std::max(highest, score);
    }
  }
  return highest > lowest ? highest - lowest : 0.0;
}

Agreement compare_layer(const Scores& golden_scores, const std::vector<std::vector<std::int32_t>>& golden_kept,
                        const std::vector<std::vector<float>>& scores,
                        const std::vector<std::vector<std::int32_t>>& kept, double tolerance, bool counts_move) {
  Agreement result;
  result.spread = spread_of(golden_scores);
  const double protection = protection_value(golden_scores);
  const double slack = tolerance * result.spread;
  std::size_t golden_total = 0;
  std::size_t our_total = 0;
  for (std::size_t head = 0; head < golden_scores.size(); ++head) {
    for (std::size_t row = 0; row < golden_scores[head].size(); ++row) {
      const double expected = golden_scores[head][row];
      const auto got = static_cast<double>(scores[head][row]);
      if (expected == protection || is_largest_float(expected)) {
        // max + 1 carries the rounding of the layer's largest score beside its own.
        if (!(std::abs(got - expected) <= 1e-6 * std::abs(expected) + slack)) {
          ++result.wrong_sets;
          result.first_fault =
              fmt::format("head {} entry {}: protected score {} instead of {}", head, row, got, expected);
          return result;
        }
        continue;
      }
      const double difference = std::abs(got - expected);
      const double share = result.spread > 0 ? difference / result.spread : (difference > 0 ? 1.0 : 0.0);
      result.largest_difference = std::max(result.largest_difference, std::isnan(share) ? 1.0 : share);
    }
    golden_total += golden_kept[head].size();
    our_total += kept[head].size();
    if (kept[head] == golden_kept[head]) {
      ++result.equal_sets;
      continue;
    }
    std::string fault = swap_fault(golden_scores[head], golden_kept[head], kept[head], slack);
    if (fault.empty() && !counts_move && kept[head].size() != golden_kept[head].size()) {
      fault = fmt::format("{} entries instead of {}", kept[head].size(), golden_kept[head].size());
    }
    if (fault.empty()) {
      ++result.tied_sets;
    } else {
      ++result.wrong_sets;
      if (result.first_fault.empty()) result.first_fault = fmt::format("head {}: {}", head, fault);
    }
  }
  if (golden_total != our_total) {
    ++result.wrong_sets;
    if (result.first_fault.empty())
      result.first_fault = fmt::format("{} entries in the layer instead of {}", our_total, golden_total);
  }
  return result;
}

void print_row(const std::string& trace, const std::string& name, const Agreement& agreement) {
  fmt::print("{:10} {:52} score {:8.1e} of the spread   sets: {:3} equal, {:3} tied, {} wrong {}\n", trace, name,
             agreement.largest_difference, agreement.equal_sets, agreement.tied_sets, agreement.wrong_sets,
             agreement.first_fault);
}

}  // namespace evictsim::test

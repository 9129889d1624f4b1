#pragma once
/// \file
/// Replaying a memory trace and comparing what comes back.

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <vector>

#include "sim/replay/replay.h"
#include "tests/support/memory_trace.h"
#include "tests/support/replay_collector.h"

namespace evictsim::test {

inline std::vector<policies::Budget> budgets_of(const std::vector<std::string>& texts) {
  std::vector<policies::Budget> budgets;
  for (const std::string& text : texts) budgets.push_back(policies::Budget::parse(text));
  return budgets;
}

/// Every policy at every budget over the sequences of `readers`; results of the last sequence.
inline ReplayCollector replayed(const std::vector<traces::Reader>& readers, const sim::ReplayPlan& plan,
                                const sim::ReplayOptions& options = {}) {
  ReplayCollector collector;
  const std::atomic<bool> stop = false;
  sim::replay(readers, plan, options, collector, stop);
  return collector;
}

inline ReplayCollector replayed(const MemoryTrace& trace, const std::string& policies,
                                const std::vector<std::string>& budgets, const sim::ReplayOptions& options = {}) {
  return replayed(stored_list(trace), sim::ReplayPlan::of(policies::parse_policies(policies), budgets_of(budgets)),
                  options);
}

/// Equal bits: NaN equals NaN.
template <typename Value>
bool same_bits(const std::vector<Value>& a, const std::vector<Value>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(Value)) == 0);
}

inline bool same_cut(const sim::PromptCut& a, const sim::PromptCut& b) {
  bool same = a.cache_heads == b.cache_heads && a.kept == b.kept && a.scores.size() == b.scores.size() &&
              same_bits(a.oracle_overlap, b.oracle_overlap) && a.scored_entries == b.scored_entries;
  for (std::size_t head = 0; same && head < a.scores.size(); ++head) same = same_bits(a.scores[head], b.scores[head]);
  return same;
}

inline bool same_rows(const CollectedRows& a, const CollectedRows& b) {
  return a.rows == b.rows && same_bits(a.retained_mass, b.retained_mass) && same_bits(a.output_error, b.output_error) &&
         same_bits(a.dilution, b.dilution) && same_bits(a.entropy, b.entropy) && same_bits(a.regret, b.regret) &&
         same_bits(a.oracle_gain, b.oracle_gain) && same_bits(a.premature_evictions, b.premature_evictions) &&
         same_bits(a.error_squared, b.error_squared) && same_bits(a.output_squared, b.output_squared) &&
         a.resident == b.resident && a.evicted == b.evicted && a.resident_rows == b.resident_rows && a.cuts == b.cuts &&
         a.scored_entries == b.scored_entries &&
         std::equal(a.class_mass.begin(), a.class_mass.end(), b.class_mass.begin(), same_bits<float>);
}

inline bool same_entries(const CollectedEntries& a, const CollectedEntries& b) {
  return a.attention == b.attention && a.attended_most == b.attended_most && a.lost_mass == b.lost_mass &&
         a.premature_evictions == b.premature_evictions;
}

/// Everything that the engine reported, bit by bit.
inline bool same_results(const ReplayCollector& a, const ReplayCollector& b) {
  if (a.cuts.size() != b.cuts.size() || a.rows.size() != b.rows.size() || a.full.size() != b.full.size()) return false;
  if (a.skipped_policies != b.skipped_policies || a.failed_policies != b.failed_policies) return false;
  for (const auto& [key, cut] : a.cuts) {
    if (!b.cuts.contains(key) || !same_cut(cut, b.cuts.at(key))) return false;
  }
  for (const auto& [key, rows] : a.rows) {
    if (!b.rows.contains(key) || !same_rows(rows, b.rows.at(key))) return false;
  }
  for (const auto& [layer, rows] : a.full) {
    if (!b.full.contains(layer) || !same_rows(rows, b.full.at(layer))) return false;
  }
  const auto equal = [](const auto& left, const auto& right) {
    return left.first == right.first && same_entries(left.second, right.second);
  };
  return std::equal(a.lost_entries.begin(), a.lost_entries.end(), b.lost_entries.begin(), b.lost_entries.end(),
                    equal) &&
         std::equal(a.full_cache_entries.begin(), a.full_cache_entries.end(), b.full_cache_entries.begin(),
                    b.full_cache_entries.end(), equal);
}

}  // namespace evictsim::test

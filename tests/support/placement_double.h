#pragma once
/// \file
/// A PlacementView over a CacheDouble, and the walk of a placement through decode rows as an engine does it.

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "policies/policy.h"
#include "tests/support/cache_double.h"

namespace evictsim::tests {

/// What `resident` of the cache holds is hot, other rows seen are cold.
class PlacementDouble : public policies::PlacementView {
 public:
  PlacementDouble(CacheDouble& cache, std::int64_t entries, int component_bytes = 2)
      : cache_(cache), entries_(entries), component_bytes_(component_bytes) {}

  [[nodiscard]] const policies::CacheView& hot() const override { return cache_; }
  [[nodiscard]] std::span<const std::int32_t> cold(int head) const override {
    const auto& hot = cache_.resident[static_cast<std::size_t>(head)];
    cold_.resize(cache_.resident.size());
    auto& rows = cold_[static_cast<std::size_t>(head)];
    rows.clear();
    for (std::int32_t row = 0; row < cache_.seen(); ++row) {
      if (!std::binary_search(hot.begin(), hot.end(), row)) rows.push_back(row);
    }
    return rows;
  }
  [[nodiscard]] models::MatrixView keys(int kv_head) const override { return seen_of(cache_.all_keys, kv_head); }
  [[nodiscard]] models::MatrixView values(int kv_head) const override { return seen_of(cache_.all_values, kv_head); }
  [[nodiscard]] std::span<const float> query(int query_head) const override {
    const models::Matrix& queries = cache_.all_queries[static_cast<std::size_t>(query_head)];
    return {queries.row(cache_.seen() - 1).data(), static_cast<std::size_t>(queries.cols())};
  }
  [[nodiscard]] policies::CutBudget budget() const override {
    return {.cached = cache_.prompt_length(), .entries = entries_, .exact_entries = static_cast<double>(entries_)};
  }
  [[nodiscard]] int component_bytes() const override { return component_bytes_; }

 private:
  [[nodiscard]] models::MatrixView seen_of(const std::vector<models::Matrix>& all, int head) const {
    const models::Matrix& matrix = all[static_cast<std::size_t>(head)];
    return models::view(matrix.data(), cache_.seen(), matrix.cols());
  }

  CacheDouble& cache_;
  std::int64_t entries_;
  int component_bytes_;
  mutable std::vector<std::vector<std::int32_t>> cold_;
};

/// A placement under way. Hot sets are what the test makes of `cache.resident`.
class PlacementWalk {
 public:
  /// The placement of `policy`, begun on the cache as it is.
  PlacementWalk(CacheDouble& cache, const std::string& policy, std::int64_t entries)
      : cache_(cache), view(cache, entries), placement(policies::parse_policy(policy).make_placement()) {
    placement->begin(view);
  }

  /// One more token arrives and attends.
  policies::AttendedEntries step() {
    cache_.see(cache_.seen() + 1);
    policies::AttendedEntries attended;
    for (int query_head = 0; query_head < cache_.geometry().num_query_heads; ++query_head) {
      attended.rows.push_back(cache_.resident[static_cast<std::size_t>(head_of(query_head))]);
    }
    placement->attend(view, attended);
    return attended;
  }

  /// Cuts every head to its `count` newest entries, as the policy would.
  void cut_to_newest(std::size_t count) {
    for (auto& rows : cache_.resident) {
      if (rows.size() > count) rows.erase(rows.begin(), rows.end() - static_cast<std::ptrdiff_t>(count));
    }
    placement->cut(view);
  }

  /// Attention output of the newest row over what it attends, with keys and values as attended: [d].
  [[nodiscard]] std::vector<double> output(int query_head, const policies::AttendedEntries& attended) const {
    const auto& rows = attended.rows[static_cast<std::size_t>(query_head)];
    const int head = head_of(query_head);
    const std::vector<double> weights =
        models::reference_weights(view.query(query_head), placement->attended_keys(view, head), rows,
                                  {.scale = cache_.geometry().attention_scale});
    return models::reference_output(weights, placement->attended_values(view, head), rows);
  }
  /// The same of the full cache.
  [[nodiscard]] std::vector<double> full_output(int query_head) const {
    std::vector<std::int32_t> rows(static_cast<std::size_t>(cache_.seen()));
    std::iota(rows.begin(), rows.end(), 0);
    const int kv_head = cache_.geometry().kv_head_of(query_head);
    const std::vector<double> weights = models::reference_weights(view.query(query_head), view.keys(kv_head), rows,
                                                                  {.scale = cache_.geometry().attention_scale});
    return models::reference_output(weights, view.values(kv_head), rows);
  }

 private:
  [[nodiscard]] int head_of(int query_head) const {
    return query_head / (cache_.geometry().num_query_heads / cache_.heads());
  }
  CacheDouble& cache_;

 public:
  PlacementDouble view;
  std::unique_ptr<policies::Placement> placement;
};

}  // namespace evictsim::tests

#include "policies/future_attention.h"

#include <algorithm>

#include "policies/exact_attention.h"

namespace evictsim::policies {

FutureAttention future_attention(const CacheView& cache, const FutureView& future, int head) {
  const auto rows = future.query_rows();
  const auto first = std::lower_bound(rows.begin(), rows.end(), static_cast<std::int32_t>(cache.prompt_length()));
  FutureAttention attention{.rows = {first, rows.end()}, .by_query = {}};
  std::vector<Index> visible;
  for (const std::int32_t row : attention.rows) visible.push_back(row + 1);
  const QueryHeads group = cache.query_heads(head);
  const models::MatrixDouble keys = future.keys(cache.geometry().kv_head_of(group.first)).cast<double>();
  const auto count = static_cast<Index>(attention.rows.size());
  for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
    const models::MatrixDouble queries =
        future.queries(query_head).middleRows(first - rows.begin(), count).cast<double>();
    attention.by_query.push_back(exact_attention(queries, keys, visible, cache.geometry()));
  }
  return attention;
}

}  // namespace evictsim::policies

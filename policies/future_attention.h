#pragma once
/// \file
/// The full-cache attention of the decode rows to come, as oracles weigh it.

#include <cstdint>
#include <vector>

#include "policies/cache_view.h"

namespace evictsim::policies {

/// Attention of the decode rows that have a query, of every query head that reads one cache head.
struct FutureAttention {
  std::vector<std::int32_t> rows;  ///< [R] token rows, ascending
  std::vector<models::MatrixDouble>
      by_query;  ///< [query heads of the group] softmax over rows 0 .. rows[r]: [R, length]
};

/// Needs Needs::decode_attention only where every decode row must count.
FutureAttention future_attention(const CacheView& cache, const FutureView& future, int head);

}  // namespace evictsim::policies

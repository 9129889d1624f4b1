#pragma once
/// \file
/// Logits of the newest tokens, for scorers that reduce a group before the softmax or normalise over a part of the
/// cache only.

#include "policies/cache_view.h"

namespace evictsim::policies {

/// q.k of the last `rows` tokens seen (their queries must be there: Needs::window_queries) with every resident entry of
/// cache head `head`, scaled and capped, without causal mask: [entries, rows]. `query_head` must read that cache head.
models::MatrixDouble window_logits(const CacheView& cache, int head, int query_head, Index rows);

/// Softmax of every column over rows [first, first + count), which alone compete: [count, columns].
models::MatrixDouble softmax_over(const models::MatrixDouble& logits, Index first, Index count);

}  // namespace evictsim::policies

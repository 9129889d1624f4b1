#pragma once
/// \file
/// Attention of a second forward pass over the context (KVzip, arXiv 2505.23416; KVCompose, arXiv 2509.05165). Its rows
/// see the entries of their chunk, some attention sinks before it, and the pass's own rows up to themselves.
/// Consecutive rows with the same chunk are one pass. Where a trace lacks the keys of the pass's own rows they are left
/// out of the softmax.

#include <vector>

#include "policies/cache_view.h"

namespace evictsim::policies {

/// What an entry of a chunk receives from the rows that see it.
struct SecondPassAttention {
  std::vector<double> highest;  ///< [entries of the cache head]; 0 where no row sees the entry
  std::vector<double> mean;     ///< the same, mean over these rows
};

/// For one query head, in the order of the entries of `head`. `sinks`: first tokens that rows see besides their chunk,
/// as far as they lie before it.
SecondPassAttention second_pass_attention(const CacheView& cache, int head, int query_head, Index sinks);

}  // namespace evictsim::policies

#pragma once
/// \file
/// How much an entry writes into the residual stream: norms of its value behind W_O.

#include <vector>

#include "policies/cache_view.h"

namespace evictsim::policies {

enum class Norm { l1, l2 };

/// |W_O^(h) v_i| of every resident entry of the query head's cache head, in the order of `entries`: [entries]. Needs
/// Needs::output_weights.
std::vector<double> projected_value_norms(const CacheView& cache, int head, int query_head, Norm norm);
/// Its mean over the query heads that read `head`.
std::vector<double> mean_projected_value_norms(const CacheView& cache, int head, Norm norm);

}  // namespace evictsim::policies

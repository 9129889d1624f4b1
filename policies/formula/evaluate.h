#pragma once
/// \file
/// Evaluates a checked formula on the resident entries of a layer, whole rows at a time.

#include <vector>

#include "policies/attention_record.h"
#include "policies/cache_view.h"
#include "policies/formula/types.h"

namespace evictsim::policies::formula {

/// The values of a term: a head_row has a row per cache head, a query_row one per query head, in their order; each
/// [entries of its cache head], in the order of `LayerView::entries`. A number is one row of one.
using Rows = std::vector<std::vector<double>>;

/// `record` holds the attention so far; needed where `accumulates(term)`.
Rows evaluate(const Term& term, const CacheView& cache, const AttentionRecord* record);

/// `window` tokens, as far as one older is left: windows no shorter than the sequence are a token shorter than it, so
/// that something competes.
Index shortened(Index window, const CacheView& cache);

}  // namespace evictsim::policies::formula

#pragma once
/// \file
/// What a policy needs from a trace beyond k, v and the queries of decode rows.

#include <algorithm>

#include "models/matrix.h"

namespace evictsim::policies {

struct Needs {
  models::Index window_queries = 0;  ///< q of the last so many tokens at every cut
  bool all_queries = false;          ///< q of every prompt row
  bool decode_attention =
      false;  ///< `Scorer::observe` or window attention at cuts while decoding: q of every decode row

  /// The union of two needs.
  [[nodiscard]] Needs with(const Needs& other) const {
    return {std::max(window_queries, other.window_queries), all_queries || other.all_queries,
            decode_attention || other.decode_attention};
  }
};

/// One cache per KV head (the group shares it), or one per query head (as code that repeats keys for the group does).
enum class Granularity { kv_head, query_head };

}  // namespace evictsim::policies

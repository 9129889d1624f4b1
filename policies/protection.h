#pragma once
/// \file
/// The protection part: what may never go (as long as the budget can hold it)?

#include "policies/cache_view.h"
#include "policies/scores.h"

namespace evictsim::policies {

/// Stateless. Called at every cut after the scorer.
class Protection {
 public:
  virtual ~Protection() = default;
  virtual void protect(const CacheView& cache, LayerScores& scores) const = 0;
};

}  // namespace evictsim::policies

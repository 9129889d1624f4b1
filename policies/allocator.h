#pragma once
/// \file
/// The allocator part: how is the budget split over layers and heads?

#include <memory>
#include <span>
#include <vector>

#include "policies/budget.h"
#include "policies/scores.h"

namespace evictsim::policies {

/// One cut of one layer.
struct AllocationRequest {
  CutBudget budget;
  int layer = 0;       ///< index in the model
  int num_layers = 0;  ///< layers of the model
  const LayerScores* scores = nullptr;
  /// Asked by an allocator that then moves counts between the layer's heads (Ada-KV); set by that one only.
  bool heads_share = false;
};

/// Stateless; one object serves all sequences, layers and budgets, from several threads.
class Allocator {
 public:
  virtual ~Allocator() = default;
  /// Sets `counts[head]`, the entries that head keeps; each head then keeps its best. Called at every cut, after
  /// scoring and protection. The engine limits counts to the entries a head has.
  virtual void allocate(const AllocationRequest& request, std::span<Index> counts) const = 0;
};

}  // namespace evictsim::policies

#pragma once
/// \file
/// The scorer part: how useful is each cached entry?

#include "policies/budget.h"
#include "policies/cache_view.h"
#include "policies/needs.h"
#include "policies/scores.h"

namespace evictsim::policies {

/// One object serves one layer of one sequence under one policy (and, for policies that cut while decoding, one
/// budget), so it may keep state between calls. All calls for an object come from one thread at a time.
class Scorer {
 public:
  virtual ~Scorer() = default;

  /// Fills `scores` (zero, nothing protected) for every resident entry. Called at every cut: after the prompt (all
  /// prompt rows resident and attended), and after a decode row was attended and observed when the schedule says so.
  virtual void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) = 0;

  /// Called once, before the prompt's cut, when the policy cuts while decoding: the place to set up running state.
  /// `prompt` shows the whole prompt.
  virtual void begin_decode(const CacheView& prompt) { static_cast<void>(prompt); }

  /// Called after every decode row attended, before its cut, when the policy cuts while decoding and declares
  /// Needs::decode_attention.
  virtual void observe(const StepView& step) { static_cast<void>(step); }

  /// Whether `score` looks at its budget; if not, it is called once for all budgets of the prompt's cut.
  [[nodiscard]] virtual bool depends_on_budget() const { return false; }
  [[nodiscard]] virtual Granularity granularity() const { return Granularity::kv_head; }
  [[nodiscard]] virtual Needs needs() const { return {}; }
};

/// A scorer that looks into the future, at the prompt's cut only. It has its own type so that no causal scorer can.
class OracleScorer {
 public:
  virtual ~OracleScorer() = default;
  /// As Scorer::score, at the prompt's cut.
  virtual void score(const CacheView& cache, const FutureView& future, LayerScores& scores) = 0;
  [[nodiscard]] virtual Needs needs() const { return {}; }
};

}  // namespace evictsim::policies

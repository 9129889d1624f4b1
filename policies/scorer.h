#pragma once
/// \file
/// The scorer part: how useful is each cached entry?

#include <memory>
#include <utility>
#include <vector>

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

  /// The attention that the scores were made of, before the query heads of a group are reduced and before anything is
  /// raised: [query head][entries of its cache], in the order of `LayerView::entries`; weights >= 0, not normalised, 0
  /// for entries that do not compete. Called right after `score`, by scorers that wrap this one (CAOTE); empty where
  /// the score is not made of attention.
  [[nodiscard]] virtual std::vector<std::vector<double>> attention_of_score(const CacheView& cache) {
    static_cast<void>(cache);
    return {};
  }

  /// Whether `score` looks at its budget; if not, it is called once for all budgets of the prompt's cut.
  [[nodiscard]] virtual bool depends_on_budget() const { return false; }
  [[nodiscard]] virtual Granularity granularity() const { return Granularity::kv_head; }
  [[nodiscard]] virtual Needs needs() const { return {}; }
};

/// A scorer around another: scores with, or in place of, the scores of `inner`. State, granularity and needs are the
/// inner scorer's unless overridden.
class OuterScorer : public Scorer {
 public:
  explicit OuterScorer(std::unique_ptr<Scorer> inner) : inner_(std::move(inner)) {}
  void begin_decode(const CacheView& prompt) override { inner_->begin_decode(prompt); }
  void observe(const StepView& step) override { inner_->observe(step); }
  [[nodiscard]] std::vector<std::vector<double>> attention_of_score(const CacheView& cache) override {
    return inner_->attention_of_score(cache);
  }
  [[nodiscard]] bool depends_on_budget() const override { return inner_->depends_on_budget(); }
  [[nodiscard]] Granularity granularity() const override { return inner_->granularity(); }
  [[nodiscard]] Needs needs() const override { return inner_->needs(); }

 protected:
  [[nodiscard]] Scorer& inner() { return *inner_; }
  [[nodiscard]] const Scorer& inner() const { return *inner_; }

 private:
  std::unique_ptr<Scorer> inner_;
};

/// A scorer that looks into the future. It has its own type so that no causal scorer can. One object serves as one
/// Scorer does.
class OracleScorer {
 public:
  virtual ~OracleScorer() = default;
  /// As Scorer::score.
  virtual void score(const CacheView& cache, const CutBudget& budget, const FutureView& future,
                     LayerScores& scores) = 0;
  /// As Scorer::depends_on_budget.
  [[nodiscard]] virtual bool depends_on_budget() const { return false; }
  /// Whether it knows the value of decoded entries too, so that it can cut while decoding.
  [[nodiscard]] virtual bool ranks_decoded() const { return false; }
  /// Whether no policy that cuts by the same schedule, to the same budget in every head, retains more attention.
  [[nodiscard]] virtual bool is_optimum() const { return false; }
  [[nodiscard]] virtual Needs needs() const { return {}; }
};

}  // namespace evictsim::policies

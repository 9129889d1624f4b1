#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "policies/formula/evaluate.h"
#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

/// Scores by an expression over features of the entries.
class FormulaScorer : public Scorer {
 public:
  explicit FormulaScorer(const Parameters& parameters) : group_(group_of(parameters)) {
    if (parameters.words("expression").empty()) return;
    formula_ = formula::check(parameters.words("expression"));
    if (formula::accumulates(formula_->score)) record_.emplace(AttentionRecordOptions{});
  }

  void begin_decode(const CacheView& prompt) override {
    if (record_) record_->begin(prompt);
  }
  void observe(const StepView& step) override {
    if (record_) record_->observe(step);
  }

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    if (record_ && !record_->begun()) record_->begin(cache);
    const formula::Rows rows = reduced(formula::evaluate(formula_->score, cache, record_ ? &*record_ : nullptr), cache);
    const Index raised = formula::shortened(formula_->raised, cache);
    for (int head = 0; head < cache.heads(); ++head) {
      const std::vector<double>& row = rows[static_cast<std::size_t>(head)];
      const Index candidates = count_before(cache.entries(head), cache.seen() - raised);
      std::transform(row.begin(), row.begin() + candidates, scores.of(head).begin(),
                     [](double value) { return static_cast<float>(value); });
    }
    if (raised == 0) return;
    const float highest = raised_score(scores);
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      for (Index i = count_before(entries, cache.seen() - raised); i < std::ssize(entries); ++i) {
        scores.raise(head, i, highest);
      }
    }
  }

  [[nodiscard]] Granularity granularity() const override { return granularity_of(group_); }
  [[nodiscard]] Needs needs() const override {
    if (!formula_) return {.parameters = {"expression: the formula, such as '-norm(k)'"}};
    return formula::needs_of(formula_->score);
  }

 private:
  /// One row per cache head.
  [[nodiscard]] formula::Rows reduced(formula::Rows rows, const CacheView& cache) const {
    if (formula_->score.shape == formula::Shape::head_row) return rows;
    formula::Rows result;
    auto member = rows.begin();
    for (int head = 0; head < cache.heads(); ++head) {
      const auto end = member + cache.query_heads(head).count;
      result.push_back(reduce_group(group_, {member, end}));
      member = end;
    }
    return result;
  }

  GroupReduction group_;
  std::optional<formula::Formula> formula_;  ///< nothing: none given
  std::optional<AttentionRecord> record_;    ///< only where attention is accumulated
};

const Registration registration(
    {.name = "formula",
     .sentence = "Scores by an expression over attention, norms, ages and other features; `score: ...` in short.",
     .citation = "ours, docs/formulas.md",
     .parameters = {text_parameter("expression", "the formula, in quotes"), group_parameter()},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<FormulaScorer>(parameters); })});

}  // namespace
}  // namespace evictsim::policies

#include <algorithm>
#include <optional>

#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

/// Sums of the attention every entry received: over the full prompt at the prompt's cut, then over what was resident
/// when each decode row attended.
class AccumulatedAttention : public Scorer {
 public:
  explicit AccumulatedAttention(const Parameters& parameters)
      : recent_(parameters.optional_integer("recent")),
        recent_share_(parameters.real("recent_share")),
        group_(group_of(parameters)),
        over_lifetime_(parameters.choice("normalise") == "lifetime") {}

  void begin_decode(const CacheView& prompt) override {
    sums_.clear();
    for (int head = 0; head < prompt.heads(); ++head) {
      const QueryHeads queries = prompt.query_heads(head);
      for (int query_head = queries.first; query_head < queries.first + queries.count; ++query_head) {
        const std::span<const double> sums = prompt.accumulated_attention(query_head);
        sums_.emplace_back(sums.begin(), sums.end());
      }
    }
  }

  void observe(const StepView& step) override {
    for (int head = 0; head < step.heads(); ++head) {
      const auto entries = step.entries(head);
      const QueryHeads queries = step.query_heads(head);
      for (int query_head = queries.first; query_head < queries.first + queries.count; ++query_head) {
        std::vector<double>& sums = sums_[static_cast<std::size_t>(query_head)];
        sums.resize(static_cast<std::size_t>(step.seen()), 0.0);
        const std::span<const float> attention = step.attention(query_head);
        for (std::size_t i = 0; i < entries.size(); ++i) {
          sums[static_cast<std::size_t>(entries[i])] += attention[i];
        }
      }
    }
  }

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    const bool at_prompt = cache.seen() == cache.prompt_length();
    const Index recent = recent_ ? *recent_ : static_cast<Index>(recent_share_ * static_cast<double>(budget.entries));
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      const QueryHeads queries = cache.query_heads(head);
      std::vector<std::vector<double>> rows;
      for (int query_head = queries.first; query_head < queries.first + queries.count; ++query_head) {
        const std::span<const double> sums = at_prompt
                                                 ? cache.accumulated_attention(query_head)
                                                 : std::span<const double>(sums_[static_cast<std::size_t>(query_head)]);
        std::vector<double>& row = rows.emplace_back();
        for (const std::int32_t entry : entries) {
          const double observers = over_lifetime_ ? static_cast<double>(cache.seen() - entry) : 1.0;
          row.push_back(sums[static_cast<std::size_t>(entry)] / observers);
        }
      }
      const std::vector<double> reduced = reduce_group(group_, rows);
      std::transform(reduced.begin(), reduced.end(), scores.of(head).begin(),
                     [](double value) { return static_cast<float>(value); });
      for (Index i = count_before(entries, cache.seen() - recent); i < std::ssize(entries); ++i)
        scores.protect(head, i);
    }
  }

  [[nodiscard]] bool depends_on_budget() const override { return !recent_; }
  [[nodiscard]] Granularity granularity() const override { return granularity_of(group_); }
  [[nodiscard]] Needs needs() const override { return {.all_queries = true, .decode_attention = true}; }

 private:
  std::optional<Index> recent_;
  double recent_share_;
  GroupReduction group_;
  bool over_lifetime_;
  std::vector<std::vector<double>> sums_;  ///< [query head][token row], from the first decode row on
};

ParameterSpec recent_parameter() {
  ParameterSpec spec = integer_parameter("recent", "auto", 0, 1e9, "last tokens protected; auto: recent_share");
  spec.automatic = true;
  return spec;
}

const Registration registration(
    {.name = "accumulated_attention",
     .sentence = "Keeps what received most attention so far, and the newest entries.",
     .citation = "H2O, arXiv 2306.14048",
     .parameters = {recent_parameter(),
                    real_parameter("recent_share", "0.5", 0, 1, "share of the budget protected where recent is auto"),
                    group_parameter(),
                    choice_parameter("normalise", {"none", "lifetime"},
                                     "divide by the number of tokens that could attend, or not")},
     .make = MakeScorer([](const Parameters& parameters) {
       return std::make_unique<AccumulatedAttention>(parameters);
     }),
     .default_schedule = "every()"});

}  // namespace
}  // namespace evictsim::policies

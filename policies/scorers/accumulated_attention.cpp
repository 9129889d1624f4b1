#include <algorithm>
#include <optional>

#include "policies/attention_record.h"
#include "policies/registry.h"
#include "policies/scoring.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

enum class Normalisation { none, lifetime, queries };

Normalisation normalisation_of(const Parameters& parameters) {
  const std::string& name = parameters.choice("normalise");
  if (name == "lifetime") return Normalisation::lifetime;
  return name == "queries" ? Normalisation::queries : Normalisation::none;
}

AttentionRecordOptions record_of(const Parameters& parameters) {
  AttentionRecordOptions options{.history = parameters.integer("history")};
  const std::string& span = parameters.choice("accumulate");
  if (span == "window") options.span = AttentionSpan::window;
  if (span == "since_window") options.span = AttentionSpan::since_window;
  if (span == "last") {
    options.span = AttentionSpan::window;
    options.history = 1;
  }
  const std::string& signal = parameters.choice("signal");
  if (signal == "squared") options.signal = AttentionSignal::squared;
  if (signal == "above_uniform") options.signal = AttentionSignal::above_uniform;
  if (signal == "below_uniform") options.signal = AttentionSignal::below_uniform;
  return options;
}

/// Sums of what every entry received: from the queries over the full prompt at the prompt's cut, then over what was
/// resident when each decode row attended. The sums of what stays are never rescaled.
class AccumulatedAttention : public Scorer {
 public:
  explicit AccumulatedAttention(const Parameters& parameters)
      : recent_(parameters.optional_integer("recent")),
        recent_share_(parameters.real("recent_share")),
        flexgen_(parameters.choice("cut") == "flexgen"),
        group_(group_of(parameters)),
        normalisation_(normalisation_of(parameters)),
        is_attention_(parameters.choice("signal") == "probability"),
        kernel_(parameters.integer("kernel")),
        pooling_(pool_of(parameters)),
        record_(record_of(parameters)) {}

  void begin_decode(const CacheView& prompt) override { record_.begin(prompt); }
  void observe(const StepView& step) override { record_.observe(step); }

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    if (!record_.begun()) record_.begin(cache);
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      if (entries.empty()) continue;
      const QueryHeads queries = cache.query_heads(head);
      std::vector<std::vector<double>> rows;
      for (int query_head = queries.first; query_head < queries.first + queries.count; ++query_head) {
        rows.push_back(received(cache, query_head, entries));
      }
      const std::vector<double> reduced = pooled(reduce_group(group_, rows));
      std::transform(reduced.begin(), reduced.end(), scores.of(head).begin(),
                     [](double value) { return static_cast<float>(value); });
      scores.protect(head, count_before(entries, cache.seen() - recent(cache, budget)), std::ssize(entries));
    }
  }

  [[nodiscard]] std::vector<std::vector<double>> attention_of_score(const CacheView& cache) override {
    if (!is_attention_) return {};
    std::vector<std::vector<double>> attention;
    for (int head = 0; head < cache.heads(); ++head) {
      const QueryHeads queries = cache.query_heads(head);
      for (int query_head = queries.first; query_head < queries.first + queries.count; ++query_head) {
        attention.push_back(pooled(received(cache, query_head, cache.entries(head))));
      }
    }
    return attention;
  }

  [[nodiscard]] bool depends_on_budget() const override { return !recent_ || flexgen_; }
  [[nodiscard]] Granularity granularity() const override { return granularity_of(group_); }
  [[nodiscard]] Needs needs() const override { return record_.needs(); }

 private:
  /// FlexGen keeps hh heavy hitters and hh - 1 recent entries after the prompt; later, of hh older and hh newest
  /// entries, the weakest of the older goes.
  [[nodiscard]] Index recent(const CacheView& cache, const CutBudget& budget) const {
    if (flexgen_) {
      const Index heavy = (budget.entries + 1) / 2;
      return cache.seen() == cache.prompt_length() ? heavy - 1 : heavy;
    }
    return recent_ ? *recent_ : static_cast<Index>(recent_share_ * static_cast<double>(budget.entries));
  }

  [[nodiscard]] std::vector<double> received(const CacheView& cache, int query_head,
                                             std::span<const std::int32_t> entries) const {
    std::vector<double> row = record_.sums(query_head, entries);
    if (normalisation_ == Normalisation::none) return row;
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const Index observers = normalisation_ == Normalisation::lifetime ? cache.seen() - entries[i]
                                                                        : record_.queries(entries[i], cache.seen());
      row[i] /= static_cast<double>(observers);
    }
    return row;
  }

  [[nodiscard]] std::vector<double> pooled(std::vector<double> row) const {
    return kernel_ == 1 ? row : pool(pooling_, row, kernel_);
  }

  std::optional<Index> recent_;
  double recent_share_;
  bool flexgen_;
  GroupReduction group_;
  Normalisation normalisation_;
  bool is_attention_;
  Index kernel_;
  Pooling pooling_;
  AttentionRecord record_;
};

const Registration registration(
    {.name = "accumulated_attention",
     .sentence = "Keeps what received most attention so far, and the newest entries.",
     .citation = "H2O, arXiv 2306.14048; Scissorhands, arXiv 2305.17118; KV-Compress, arXiv 2410.00161",
     .parameters = accumulation_parameters(),
     .make = MakeScorer([](const Parameters& parameters) {
       return std::make_unique<AccumulatedAttention>(parameters);
     }),
     .default_schedule = "every()"});

}  // namespace
}  // namespace evictsim::policies

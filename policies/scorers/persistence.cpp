#include <algorithm>

#include "policies/attention_record.h"
#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

/// Drops what none of the last queries put among its most attended entries.
class Persistence : public Scorer {
 public:
  explicit Persistence(const Parameters& parameters)
      : recent_(parameters.integer("recent")),
        first_layer_(parameters.integer("first_layer")),
        last_layer_(parameters.integer("last_layer")),
        group_(group_of(parameters)),
        record_({.signal = AttentionSignal::above_percentile,
                 .span = AttentionSpan::window,
                 .history = parameters.integer("history"),
                 .percentile = parameters.real("percentile")}) {}

  void begin_decode(const CacheView& prompt) override { record_.begin(prompt); }
  void observe(const StepView& step) override { record_.observe(step); }

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    if (cache.layer() < first_layer_ || cache.layer() > last_layer_) return;
    if (!record_.begun()) record_.begin(cache);
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      if (entries.empty()) continue;
      const QueryHeads queries = cache.query_heads(head);
      std::vector<std::vector<double>> rows;
      for (int query_head = queries.first; query_head < queries.first + queries.count; ++query_head) {
        rows.push_back(record_.sums(query_head, entries));
      }
      const std::vector<double> counts = reduce_group(group_, rows);
      const Index recent = count_before(entries, cache.seen() - recent_);
      for (Index place = 0; place < std::ssize(entries); ++place) {
        const double count = counts[static_cast<std::size_t>(place)];
        scores.of(head)[static_cast<std::size_t>(place)] = static_cast<float>(count);
        if (place >= recent) {
          scores.protect(head, place);
        } else if (count == 0) {
          scores.drop(head, place);
        }
      }
    }
  }

  [[nodiscard]] Granularity granularity() const override { return granularity_of(group_); }
  [[nodiscard]] Needs needs() const override { return record_.needs(); }

 private:
  Index recent_;
  std::int64_t first_layer_;
  std::int64_t last_layer_;
  GroupReduction group_;
  AttentionRecord record_;
};

const Registration registration(
    {.name = "persistence",
     .sentence = "Drops entries that none of the last queries put above a percentile of its attention.",
     .citation = "Scissorhands, arXiv 2305.17118; lzcemma/Scissorhands hf_opt_dropkv.py",
     .parameters = {integer_parameter("history", "100", 1, 1e6, "queries that count"),
                    real_parameter("percentile", "0.9", 0, 1,
                                   "share of a query's entries that lie below its threshold"),
                    integer_parameter("recent", "10", 0, 1e9, "newest tokens kept"),
                    integer_parameter("first_layer", "5", 0, 1e6, "layers before it are left whole"),
                    integer_parameter("last_layer", "35", 0, 1e6, "layers behind it are left whole"),
                    group_parameter()},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<Persistence>(parameters); }),
     .default_schedule = "every()"});

}  // namespace
}  // namespace evictsim::policies

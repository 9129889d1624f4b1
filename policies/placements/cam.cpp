#include <algorithm>
#include <cmath>
#include <random>

#include "models/attention.h"
#include "policies/merge_on_evict.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// An evicted value is spread over the kept entries that follow it, with a probability that its attention so far sets
/// against theirs. Cuts after the prompt evict without merging: no decode row has attended yet.
class Cam : public MergeOnEvict {
 public:
  explicit Cam(const Parameters& parameters) : merge_budget_(parameters.integer("merge_budget")) {}

  void begin(const PlacementView& layer) override {
    received_.resize(static_cast<std::size_t>(layer.hot().heads()));
    for (int head = 0; head < layer.hot().heads(); ++head) generators_.push_back(layer.hot().generator(head));
    last_cut_ = layer.hot().seen();
    MergeOnEvict::begin(layer);
  }

  void cut(const PlacementView& layer) override {
    has_evicted_ = false;
    MergeOnEvict::cut(layer);
    if (has_evicted_) last_cut_ = layer.hot().seen();
  }

  void attend(const PlacementView& layer, AttendedEntries& attended) override {
    MergeOnEvict::attend(layer, attended);
    const models::Geometry& geometry = layer.hot().geometry();
    for (int head = 0; head < layer.hot().heads(); ++head) {
      std::vector<double>& received = received_[static_cast<std::size_t>(head)];
      received.resize(static_cast<std::size_t>(layer.hot().seen()), 0.0);
      const QueryHeads queries = layer.hot().query_heads(head);
      const auto entries = layer.hot().entries(head);
      for (int i = queries.first; i < queries.first + queries.count; ++i) {
        const std::vector<double> weights =
            models::reference_weights(layer.query(i), attended_keys(layer, head), entries,
                                      {.scale = geometry.attention_scale, .softcap = geometry.logit_softcap});
        for (std::size_t place = 0; place < entries.size(); ++place) {
          received[static_cast<std::size_t>(entries[place])] += weights[place] / queries.count;
        }
      }
    }
  }

  [[nodiscard]] Needs needs() const override { return {.decode_attention = true}; }

 protected:
  void merge(const PlacementView& layer, int head, std::span<const std::int32_t> evicted, Rows& rows) override {
    has_evicted_ = true;
    std::vector<double>& received = received_[static_cast<std::size_t>(head)];
    received.resize(static_cast<std::size_t>(layer.hot().seen()), 0.0);
    const auto kept = layer.hot().entries(head);
    for (const std::int32_t row : most_attended(evicted, received, layer.hot().seen() - last_cut_)) {
      const auto first = std::upper_bound(kept.begin(), kept.end(), row);
      const auto count = std::min<std::ptrdiff_t>(merge_budget_, kept.end() - first);
      double mean = 0;
      for (auto target = first; target != first + count; ++target) {
        mean += received[static_cast<std::size_t>(*target)] / static_cast<double>(count);
      }
      const double own = received[static_cast<std::size_t>(row)];
      const double probability = own > 0 ? std::min(1.0, own / mean) : 0.0;
      const double draw = static_cast<double>(generators_[static_cast<std::size_t>(head)]() >> 11) * 0x1p-53;
      if (draw >= probability) continue;
      const auto value = std::as_const(rows.values).row(row);
      for (auto target = first; target != first + count; ++target) {
        const auto sum = rows.values.row(*target);
        for (std::size_t c = 0; c < sum.size(); ++c) sum[c] += value[c] / static_cast<float>(count);
      }
    }
  }

 private:
  /// As many evicted rows as tokens have come since the last cut, the most attended (of equal ones the later),
  /// ascending.
  static std::vector<std::int32_t> most_attended(std::span<const std::int32_t> evicted,
                                                 const std::vector<double>& received, Index count) {
    std::vector<std::int32_t> rows(evicted.begin(), evicted.end());
    std::stable_sort(rows.begin(), rows.end(), [&](std::int32_t a, std::int32_t b) {
      const double first = received[static_cast<std::size_t>(a)];
      const double second = received[static_cast<std::size_t>(b)];
      return first != second ? first > second : a > b;
    });
    rows.resize(std::min(rows.size(), static_cast<std::size_t>(count)));
    std::sort(rows.begin(), rows.end());
    return rows;
  }

  std::ptrdiff_t merge_budget_;
  std::vector<std::vector<double>> received_;  ///< [cache head][row] attention of decode rows, mean over the group
  std::vector<std::mt19937_64> generators_;    ///< by cache head
  Index last_cut_ = 0;                         ///< tokens seen at the last cut that evicted
  bool has_evicted_ = false;
};

const Registration registration(
    {.name = "cam",
     .sentence = "Spreads evicted values over the kept entries behind them, by chance as their attention compares.",
     .citation = "CaM, ICML 2024; kvpress 0.5.5 CAMPress",
     .parameters = {integer_parameter("merge_budget", "32", 1, 1e9,
                                      "kept entries that one evicted value is spread over")},
     .make = MakePlacement([](const Parameters& parameters) { return std::make_unique<Cam>(parameters); }),
     .is_policy = true,
     .default_policy = "h2o()"});

}  // namespace
}  // namespace evictsim::policies

#include <algorithm>

#include "policies/registry.h"
#include "policies/retrieval.h"

namespace evictsim::policies {
namespace {

/// Nothing leaves HBM: every query head attends the entries with its largest logits, and the newest.
class TopkPerQuery : public Placement {
 public:
  void begin(const PlacementView&) override {}

  void attend(const PlacementView& layer, AttendedEntries& attended) override {
    for (int head = 0; head < layer.hot().heads(); ++head) {
      const models::MatrixView keys = layer.keys(kv_head_of(layer, head));
      const auto entries = layer.hot().entries(head);
      const auto older = entries.first(entries.size() - 1);
      const QueryHeads queries = layer.hot().query_heads(head);
      for (int i = 0; i < queries.count; ++i) {
        // Scale and soft cap keep the order of q.k.
        std::vector<double> products;
        for (const std::int32_t row : older) products.push_back(dot(layer.query(queries.first + i), keys, row));
        auto& rows = attended.rows[static_cast<std::size_t>(queries.first + i)];
        rows.clear();
        for (const Index place : best_places(products, layer.budget().entries - 1)) {
          rows.push_back(older[static_cast<std::size_t>(place)]);
        }
        rows.push_back(entries.back());
      }
      count_hits(layer, head, attended);
    }
  }

  [[nodiscard]] TierBytes stored(const PlacementView& layer) const override { return hot_bytes(layer); }
};

const Registration registration(
    {.name = "topk_per_query",
     .sentence = "Attends the entries with the largest logits of each query head and row: the bound for retrieval.",
     .citation = "exact top-k, the oracle of Quest, arXiv 2406.10774, and of sparse-attention-hub",
     .parameters = {},
     .make = MakePlacement([](const Parameters&) { return std::make_unique<TopkPerQuery>(); }),
     .is_policy = true,
     .default_policy = "full()"});

}  // namespace
}  // namespace evictsim::policies

#include <algorithm>

#include "policies/page_digest.h"
#include "policies/registry.h"
#include "policies/retrieval.h"

namespace evictsim::policies {
namespace {

/// Nothing leaves HBM: every query head reads the pages with the highest bound of q.k, the newest page among them.
class Quest : public Placement {
 public:
  explicit Quest(const Parameters& parameters)
      : page_(parameters.integer("page")),
        skip_layers_(parameters.integer("skip_layers")),
        fewest_(parameters.integer("fewest_pages")) {}

  void begin(const PlacementView& layer) override {
    digests_.assign(static_cast<std::size_t>(layer.hot().heads()), PageDigests(page_));
    if (!is_dense(layer)) cover(layer);
  }

  void attend(const PlacementView& layer, AttendedEntries& attended) override {
    if (is_dense(layer)) return count_hits(layer, attended);
    cover(layer);
    const Index wanted = std::max(fewest_, static_cast<Index>(layer.budget().entries) / page_);
    for (int head = 0; head < layer.hot().heads(); ++head) {
      const PageDigests& digests = digests_[static_cast<std::size_t>(head)];
      const Index newest = digests.size() - 1;
      const bool all = std::ssize(layer.hot().entries(head)) <= layer.budget().entries;
      const QueryHeads queries = layer.hot().query_heads(head);
      for (int i = 0; i < queries.count && !all; ++i) {
        std::vector<Index> pages = best_places(digests.bounds(newest, layer.query(queries.first + i)), wanted - 1);
        pages.push_back(newest);
        auto& rows = attended.rows[static_cast<std::size_t>(queries.first + i)];
        rows.clear();
        for (const Index page : pages) {
          const auto own = digests.rows(page);
          rows.insert(rows.end(), own.begin(), own.end());
        }
      }
      count_hits(layer, head, attended);
      attended.traffic.scanned[Tier::hbm] += static_cast<double>(digests.components() * layer.component_bytes());
    }
  }

  [[nodiscard]] TierBytes stored(const PlacementView& layer) const override {
    TierBytes bytes = hot_bytes(layer);
    for (const PageDigests& digests : digests_) {
      bytes[Tier::hbm] += static_cast<double>(digests.components() * layer.component_bytes());
    }
    return bytes;
  }

 private:
  [[nodiscard]] bool is_dense(const PlacementView& layer) const { return layer.hot().layer() < skip_layers_; }

  void cover(const PlacementView& layer) {
    for (int head = 0; head < layer.hot().heads(); ++head) {
      digests_[static_cast<std::size_t>(head)].cover(layer.hot().entries(head), layer.keys(kv_head_of(layer, head)));
    }
  }

  Index page_;
  std::int64_t skip_layers_;
  Index fewest_;
  std::vector<PageDigests> digests_;  ///< by cache head
};

const Registration registration(
    {.name = "quest",
     .sentence = "Reads, for every query head, the pages whose bound of q.k is highest; nothing is evicted.",
     .citation = "Quest, arXiv 2406.10774; mit-han-lab/Quest",
     .parameters = {integer_parameter("page", "16", 1, 65536, "entries of a page"),
                    integer_parameter("skip_layers", "2", 0, 1e6, "first layers, which attend everything"),
                    integer_parameter("fewest_pages", "3", 1, 1e9, "pages read however small the budget")},
     .make = MakePlacement([](const Parameters& parameters) { return std::make_unique<Quest>(parameters); }),
     .is_policy = true,
     .default_policy = "full()"});

}  // namespace
}  // namespace evictsim::policies

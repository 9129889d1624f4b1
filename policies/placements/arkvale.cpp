#include <algorithm>
#include <numeric>

#include "policies/page_cache.h"
#include "policies/page_digest.h"
#include "policies/registry.h"
#include "policies/retrieval.h"

namespace evictsim::policies {
namespace {

/// Full pages are copied to the host; HBM holds as many pages as the budget, the least recently attended go first and
/// come back when their digest says so.
class ArkVale : public Placement {
 public:
  explicit ArkVale(const Parameters& parameters)
      : page_(parameters.integer("page")),
        sinks_(parameters.integer("sinks_pages")),
        window_(parameters.integer("window_pages")),
        topk_(parameters.integer("topk")),
        group_(group_choice_of(parameters)) {}

  void begin(const PlacementView& layer) override {
    fit(layer.budget().entries);
    heads_.assign(static_cast<std::size_t>(layer.hot().heads()), Head{PageDigests(page_), PageCache(capacity_)});
    for (int head = 0; head < layer.hot().heads(); ++head) fill(layer, head);
  }

  /// The policy under the placement may cut: pages are then formed anew.
  void cut(const PlacementView& layer) override {
    for (int head = 0; head < layer.hot().heads(); ++head) fill(layer, head);
  }

  void attend(const PlacementView& layer, AttendedEntries& attended) override {
    ++time_;
    for (int head = 0; head < layer.hot().heads(); ++head) {
      Head& own = heads_[static_cast<std::size_t>(head)];
      own.digests.cover(layer.hot().entries(head), layer.keys(kv_head_of(layer, head)));
      attended.traffic.written[Tier::host] += exact_bytes(layer, (own.full_pages() - own.copied) * page_);
      own.copied = own.full_pages();
      // Pages that decoding has just begun are made in HBM; sinks and window never left it.
      std::vector<Index> pages = always(own.digests.size());
      own.cache.use(pages, time_);
      const std::vector<Index> chosen = choose(layer, head);
      pages.insert(pages.end(), chosen.begin(), chosen.end());
      std::sort(pages.begin(), pages.end());
      Index recalled = 0;
      for (const Index page : own.cache.use(pages, time_)) recalled += std::ssize(own.digests.rows(page));
      std::vector<std::int32_t> rows;
      for (const Index page : pages) {
        const auto page_rows = own.digests.rows(page);
        rows.insert(rows.end(), page_rows.begin(), page_rows.end());
      }
      attend_rows(layer, head, rows, attended);
      attended.traffic.recalled[Tier::host] += exact_bytes(layer, recalled);
      attended.traffic.scanned[Tier::hbm] += static_cast<double>(own.digests.components() * layer.component_bytes());
      count_hits_and_misses(layer, head, recalled, attended);
    }
  }

  [[nodiscard]] TierBytes stored(const PlacementView& layer) const override {
    TierBytes bytes;
    for (const Head& head : heads_) {
      Index in_hbm = 0;
      for (const auto& [page, mark] : head.cache.marks()) in_hbm += std::ssize(head.digests.rows(page));
      bytes[Tier::hbm] +=
          exact_bytes(layer, in_hbm) + static_cast<double>(head.digests.components() * layer.component_bytes());
      bytes[Tier::host] += exact_bytes(layer, head.copied * page_);
    }
    return bytes;
  }

 private:
  struct Head {
    PageDigests digests;
    PageCache cache;
    Index copied = 0;  ///< full pages on the host

    [[nodiscard]] Index full_pages() const {
      return digests.size() == 0 ? 0 : digests.size() - (std::ssize(digests.rows(digests.size() - 1)) < digests.page());
    }
  };

  /// Pages shrink until the budget holds four; sinks and window until a page is left to recall.
  void fit(Index budget) {
    page_ = std::min(page_, std::max<Index>(1, budget / 4));
    capacity_ = std::max<Index>(1, budget / page_);
    if (sinks_ + window_ + 1 > capacity_) {
      window_ = std::min(window_, std::max<Index>(1, capacity_ / 3));
      sinks_ = std::min(sinks_, (capacity_ - window_) / 2);
    }
    topk_ = std::min(topk_, capacity_ - sinks_ - window_);
  }

  /// Sinks and window of `count` pages.
  [[nodiscard]] std::vector<Index> always(Index count) const {
    std::vector<Index> pages;
    for (Index page = 0; page < count; ++page) {
      if (page < sinks_ || page >= count - window_) pages.push_back(page);
    }
    return pages;
  }

  /// After the prompt: sinks and the newest pages, the older the earlier to go.
  void fill(const PlacementView& layer, int head) {
    Head& own = heads_[static_cast<std::size_t>(head)];
    own.digests.cover(layer.hot().entries(head), layer.keys(kv_head_of(layer, head)));
    own.cache.marks().clear();
    const Index count = own.digests.size();
    own.copied = own.full_pages();
    for (Index page = 0; page < count; ++page) {
      const bool stays = page < sinks_ || page >= count - (capacity_ - std::min(sinks_, count));
      if (stays) own.cache.marks()[page] = time_ - 1 + static_cast<double>(page) / static_cast<double>(count);
    }
  }

  [[nodiscard]] std::vector<Index> choose(const PlacementView& layer, int head) const {
    const PageDigests& digests = heads_[static_cast<std::size_t>(head)].digests;
    const Index end = digests.size() - window_;
    if (end <= sinks_) return {};
    const QueryHeads queries = layer.hot().query_heads(head);
    std::vector<std::vector<double>> bounds;
    for (int i = 0; i < queries.count; ++i) {
      std::vector<double> all = digests.bounds(end, layer.query(queries.first + i));
      bounds.emplace_back(all.begin() + sinks_, all.end());
    }
    std::vector<Index> pages = best_places(agree(group_, bounds), topk_);
    for (Index& page : pages) page += sinks_;
    return pages;
  }

  Index page_;
  Index sinks_;
  Index window_;
  Index topk_;
  GroupChoice group_;
  Index capacity_ = 0;
  double time_ = 0;
  std::vector<Head> heads_;
};

const Registration registration(
    {.name = "arkvale",
     .sentence =
         "Keeps a budget of pages in HBM, evicts the least recently attended to the host and recalls by digest.",
     .citation = "ArkVale, NeurIPS 2024; pku-liang/ArkVale",
     .parameters = {integer_parameter("page", "32", 1, 65536, "entries of a page"),
                    integer_parameter("sinks_pages", "2", 0, 1e6, "first pages, always attended"),
                    integer_parameter("window_pages", "2", 1, 1e6, "newest pages, always attended"),
                    integer_parameter("topk", "32", 0, 1e9, "further pages attended per row"),
                    group_choice_parameter()},
     .make = MakePlacement([](const Parameters& parameters) { return std::make_unique<ArkVale>(parameters); }),
     .is_policy = true,
     .default_policy = "full()"});

}  // namespace
}  // namespace evictsim::policies

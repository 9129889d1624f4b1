#include "sim/memory/ranked_objects.h"
#include "sim/memory/replacement/kinds.h"
#include "sim/memory/replacement_replay.h"

namespace evictsim::sim::replacement {
namespace {

/// References while resident, then the time of the last one.
struct Use {
  std::uint64_t count = 0, time = 0;
  friend bool operator<(const Use& a, const Use& b) { return a.count != b.count ? a.count < b.count : a.time < b.time; }
};

template <typename Weights>
class Lfu final : public RankingPolicy<Weights, Use> {
 public:
  Lfu(const policies::Parameters&, const ReplacementShape& shape)
      : RankingPolicy<Weights, Use>(shape), counts_(shape.objects) {}
  void hit(const Item& item) override { ranked_.change(item.object, {++counts_[item.object], ++time_}); }
  void insert(const Item& item) override {
    counts_[item.object] = 1;
    ranked_.insert(item.object, {1, ++time_});
    weights_.set(item.object, item.weight);
  }
  void resize(std::uint32_t objects) override {
    RankingPolicy<Weights, Use>::resize(objects);
    counts_.resize(objects);
  }

 private:
  using RankingPolicy<Weights, Use>::ranked_;
  using RankingPolicy<Weights, Use>::weights_;
  std::vector<std::uint64_t> counts_;
  std::uint64_t time_ = 0;
};

}  // namespace

const ReplacementKind& lfu() {
  static const ReplacementKind kind = make_kind<Lfu>(
      {.name = "lfu",
       .sentence = "Evicts the object with the fewest references since it came in, the least recent one of equals.",
       .citation =
           "Coffman, Denning: Operating Systems Theory, 1973, 6.2; counts are forgotten on eviction and ties go "
           "by recency, as libCacheSim's LFU does it"});
  return kind;
}

}  // namespace evictsim::sim::replacement

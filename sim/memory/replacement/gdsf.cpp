#include "sim/memory/ranked_objects.h"
#include "sim/memory/replacement/kinds.h"
#include "sim/memory/replacement_replay.h"

namespace evictsim::sim::replacement {
namespace {

struct Priority {
  double value = 0;
  std::uint64_t time = 0;  ///< of the last reference: the older of equals leaves first
  friend bool operator<(const Priority& a, const Priority& b) {
    return a.value != b.value ? a.value < b.value : a.time < b.time;
  }
};

constexpr double scale = 1e6;  // libCacheSim's, so that roundings agree

template <typename Weights>
class Gdsf final : public RankingPolicy<Weights, Priority> {
  using Base = RankingPolicy<Weights, Priority>;

 public:
  Gdsf(const policies::Parameters&, const ReplacementShape& shape) : Base(shape), counts_(shape.objects) {}
  void hit(const Item& item) override {
    ++counts_[item.object];
    ranked_.change(item.object, priority(item));
  }
  Object evict() override {
    age_ = ranked_.first_key().value;
    return Base::evict();
  }
  void insert(const Item& item) override {
    counts_[item.object] = 1;
    weights_.set(item.object, item.weight);
    ranked_.insert(item.object, priority(item));
  }
  void resize(std::uint32_t objects) override {
    Base::resize(objects);
    counts_.resize(objects);
  }

 private:
  using Base::ranked_;
  using Base::weights_;

  Priority priority(const Item& item) {
    const auto count = static_cast<double>(counts_[item.object]);
    return {age_ + count * scale * item.cost / static_cast<double>(weights_.of(item.object)), ++time_};
  }

  std::vector<std::uint64_t> counts_;  ///< references since the object came in
  double age_ = 0;                     ///< priority of the object evicted last
  std::uint64_t time_ = 0;
};

}  // namespace

const ReplacementKind& gdsf() {
  static const ReplacementKind kind = make_kind<Gdsf>(
      {.name = "gdsf",
       .sentence =
           "Evicts the object with the least age + references x cost / size, the age being what was evicted last.",
       .citation = "Cherkasova: Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching policy, "
                   "HPL-98-69R1, 1998; counts are forgotten on eviction, as in libCacheSim's GDSF"});
  return kind;
}

}  // namespace evictsim::sim::replacement

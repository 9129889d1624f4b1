#include "sim/memory/ranked_objects.h"
#include "sim/memory/replacement/kinds.h"
#include "sim/memory/replacement_replay.h"

namespace evictsim::sim::replacement {
namespace {

/// Farthest first; of objects that never return, whose order has no effect on hits, the lowest number.
struct Distance {
  std::uint64_t next_reference = never;
  Object object = 0;
  friend bool operator<(const Distance& a, const Distance& b) {
    return a.next_reference != b.next_reference ? a.next_reference > b.next_reference : a.object < b.object;
  }
};

template <typename Weights>
class Belady final : public RankingPolicy<Weights, Distance> {
  using Base = RankingPolicy<Weights, Distance>;

 public:
  Belady(const policies::Parameters&, const ReplacementShape& shape) : Base(shape) {}
  void hit(const Item& item) override { ranked_.change(item.object, {item.next_reference, item.object}); }
  void insert(const Item& item) override {
    weights_.set(item.object, item.weight);
    ranked_.insert(item.object, {item.next_reference, item.object});
  }

 private:
  using Base::ranked_;
  using Base::weights_;
};

}  // namespace

const ReplacementKind& belady() {
  static const ReplacementKind kind = make_kind<Belady, true>(
      {.name = "belady",
       .sentence = "Sees the future and evicts the object whose next reference is farthest: the most hits that any "
                   "policy reaches that takes in every object, for objects of equal size.",
       .citation =
           "Belady: A study of replacement algorithms for a virtual-storage computer, IBM Systems Journal 5(2), "
           "1966 (MIN)"});
  return kind;
}

}  // namespace evictsim::sim::replacement

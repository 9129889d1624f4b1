#include "sim/memory/replacement/kinds.h"
#include "sim/memory/replacement_replay.h"

namespace evictsim::sim::replacement {
namespace {

template <typename Weights>
class Lru final : public ListPolicy<Weights> {
 public:
  Lru(const policies::Parameters&, const ReplacementShape& shape) : ListPolicy<Weights>(shape) {}
  void hit(const Item& item) override { lists_.move_to_front(0, item.object); }
  Object evict() override { return this->take_last(); }

 private:
  using ListPolicy<Weights>::lists_;
};

}  // namespace

const ReplacementKind& lru() {
  static const ReplacementKind kind =
      make_kind<Lru>({.name = "lru",
                      .sentence = "Evicts the object whose last reference is longest ago.",
                      .citation = "Mattson, Gecsei, Slutz, Traiger: Evaluation techniques for storage hierarchies, "
                                  "IBM Systems Journal 9(2), 1970",
                      .is_lru = true});
  return kind;
}

}  // namespace evictsim::sim::replacement

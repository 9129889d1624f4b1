#include "sim/memory/replacement/kinds.h"
#include "sim/memory/replacement_replay.h"

namespace evictsim::sim::replacement {
namespace {

template <typename Weights>
class Fifo final : public ListPolicy<Weights> {
 public:
  Fifo(const policies::Parameters&, const ReplacementShape& shape) : ListPolicy<Weights>(shape) {}
  void hit(const Item&) override {}
  Object evict() override { return this->take_last(); }
};

}  // namespace

const ReplacementKind& fifo() {
  static const ReplacementKind kind =
      make_kind<Fifo>({.name = "fifo",
                       .sentence = "Evicts the object that came in first; references change nothing.",
                       .citation = "Belady, Nelson, Shedler: An anomaly in space-time characteristics of certain "
                                   "programs running in a paging machine, CACM 12(6), 1969"});
  return kind;
}

}  // namespace evictsim::sim::replacement

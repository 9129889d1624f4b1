#include "sim/memory/replacement/kinds.h"
#include "sim/memory/replacement_replay.h"

namespace evictsim::sim::replacement {
namespace {

template <typename Weights>
class Clock final : public ListPolicy<Weights> {
 public:
  Clock(const policies::Parameters& parameters, const ReplacementShape& shape)
      : ListPolicy<Weights>(shape),
        most_((1U << static_cast<unsigned>(parameters.integer("bits"))) - 1U),
        counters_(shape.objects) {}
  void hit(const Item& item) override {
    std::uint8_t& counter = counters_[item.object];
    if (counter < most_) ++counter;
  }
  Object evict() override {
    while (true) {
      const Object candidate = lists_.back(0);
      if (counters_[candidate] == 0) {
        lists_.remove(candidate);
        return candidate;
      }
      --counters_[candidate];
      lists_.move_to_front(0, candidate);
    }
  }
  void insert(const Item& item) override {
    ListPolicy<Weights>::insert(item);
    counters_[item.object] = 0;
  }
  void resize(std::uint32_t objects) override {
    ListPolicy<Weights>::resize(objects);
    counters_.resize(objects);
  }

 private:
  using ListPolicy<Weights>::lists_;
  unsigned most_;
  std::vector<std::uint8_t> counters_;
};

}  // namespace

const ReplacementKind& clock() {
  static const ReplacementKind kind = make_kind<Clock>(
      {.name = "clock",
       .sentence = "FIFO in which an object that was referenced since the hand last passed gets another round.",
       .citation = "Corbato: A paging experiment with the Multics system, 1968; objects come in with counter 0, and "
                   "counters of several bits lose one a round, as in libCacheSim's Clock",
       .parameters = {policies::integer_parameter("bits", "1", 1, 8, "bits of the reference counter")}});
  return kind;
}

}  // namespace evictsim::sim::replacement

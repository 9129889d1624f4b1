#include "sim/memory/replacement/kinds.h"
#include "sim/memory/replacement_replay.h"

namespace evictsim::sim::replacement {
namespace {

template <typename Weights>
class Sieve final : public ListPolicy<Weights> {
 public:
  Sieve(const policies::Parameters&, const ReplacementShape& shape)
      : ListPolicy<Weights>(shape), visited_(shape.objects) {}
  void hit(const Item& item) override { visited_[item.object] = 1; }
  Object evict() override {
    Object candidate = hand_ == Lists::none ? lists_.back(0) : hand_;
    while (visited_[candidate] != 0) {
      visited_[candidate] = 0;
      candidate = lists_.before(candidate);
      if (candidate == Lists::none) candidate = lists_.back(0);
    }
    hand_ = lists_.before(candidate);
    lists_.remove(candidate);
    return candidate;
  }
  void insert(const Item& item) override {
    ListPolicy<Weights>::insert(item);
    visited_[item.object] = 0;
  }
  void erase(Object object) override {
    if (hand_ == object) hand_ = lists_.before(object);
    ListPolicy<Weights>::erase(object);
  }
  void resize(std::uint32_t objects) override {
    ListPolicy<Weights>::resize(objects);
    visited_.resize(objects);
  }

 private:
  using Lists = ObjectLists<1>;
  using ListPolicy<Weights>::lists_;
  std::vector<std::uint8_t> visited_;
  Object hand_ = Lists::none;  ///< none: begins at the oldest object
};

}  // namespace

const ReplacementKind& sieve() {
  static const ReplacementKind kind = make_kind<Sieve>(
      {.name = "sieve",
       .sentence = "FIFO whose hand moves from old to new, clears the marks of referenced objects where they are, and "
                   "evicts the first without one.",
       .citation = "Zhang, Yang, Yue, Vigfusson, Rashmi: SIEVE is simpler than LRU, NSDI 2024, algorithm 1"});
  return kind;
}

}  // namespace evictsim::sim::replacement

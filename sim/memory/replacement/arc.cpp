#include <algorithm>

#include "sim/memory/replacement/kinds.h"
#include "sim/memory/replacement_replay.h"

namespace evictsim::sim::replacement {
namespace {

/// T1, T2, B1 and B2 of the paper: seen once and more often lately, and the ghosts of both.
enum List : std::uint32_t { t1, t2, b1, b2, list_count };

template <typename Weights>
class Arc final : public QueuesPolicy<Weights, b1, list_count> {
  using Base = QueuesPolicy<Weights, b1, list_count>;

 public:
  Arc(const policies::Parameters&, const ReplacementShape& shape) : Base(shape), capacity_(shape.capacity) {}
  void hit(const Item& item) override {
    if (list_of_[item.object] == t2) {
      lists_.move_to_front(t2, item.object);
    } else {
      this->take_out(item.object);
      this->put(t2, item.object);
    }
  }
  void miss(const Item& item) override {
    missed_ = list_of_[item.object];
    incoming_ = item.weight;
    const auto b1_held = static_cast<double>(held_[b1]);
    const auto b2_held = static_cast<double>(held_[b2]);
    if (missed_ == b1) {
      target_ = std::min(target_ + std::max(b2_held / b1_held, 1.0), static_cast<double>(capacity_));
    } else if (missed_ == b2) {
      target_ = std::max(target_ - std::max(b1_held / b2_held, 1.0), 0.0);
    } else {
      return;
    }
    this->take_out(item.object);
  }
  [[nodiscard]] bool admits(const Item&) const override { return true; }
  Object evict() override {
    if (missed_ != Base::outside) return replace();
    if (held_[t1] + held_[b1] + incoming_ > capacity_) {
      if (lists_.empty(b1) && !lists_.empty(t1)) return this->take_last(t1);
      if (!lists_.empty(b1)) this->take_last(b1);
    } else if (held_[t1] + held_[t2] + held_[b1] + held_[b2] >= 2 * capacity_ && !lists_.empty(b2)) {
      this->take_last(b2);
    }
    return replace();
  }
  void insert(const Item& item) override {
    weights_.set(item.object, item.weight);
    this->put(missed_ == Base::outside ? t1 : t2, item.object);
  }

 private:
  using Base::held_;
  using Base::list_of_;
  using Base::lists_;
  using Base::weights_;

  /// REPLACE of the paper.
  Object replace() {
    const auto t1_held = static_cast<double>(held_[t1]);
    const bool from_t1 =
        !lists_.empty(t1) && (t1_held > target_ || (t1_held == target_ && missed_ == b2) || lists_.empty(t2));
    const Object victim = this->take_last(from_t1 ? t1 : t2);
    this->put(from_t1 ? b1 : b2, victim);
    return victim;
  }

  std::uint64_t capacity_;
  double target_ = 0;                     ///< p, what T1 aims to hold
  std::uint32_t missed_ = Base::outside;  ///< ghost list of the object that misses
  std::uint64_t incoming_ = 1;            ///< its weight
};

}  // namespace

const ReplacementKind& arc() {
  static const ReplacementKind kind = make_kind<Arc>(
      {.name = "arc",
       .sentence =
           "Splits the cache between objects seen once and more often, and moves the split toward the side whose "
           "ghosts are referenced.",
       .citation = "Megiddo, Modha: ARC: A self-tuning, low overhead replacement cache, FAST 2003, figure 4; p and its "
                   "steps are real numbers, as in libCacheSim's ARC"});
  return kind;
}

}  // namespace evictsim::sim::replacement

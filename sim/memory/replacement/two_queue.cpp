#include "sim/memory/replacement/kinds.h"
#include "sim/memory/replacement_replay.h"

namespace evictsim::sim::replacement {
namespace {

/// A1in, Am and A1out of the paper.
enum List : std::uint32_t { in_queue, main_queue, out_queue, list_count };

template <typename Weights>
class TwoQueue final : public QueuesPolicy<Weights, out_queue, list_count> {
  using Base = QueuesPolicy<Weights, out_queue, list_count>;

 public:
  TwoQueue(const policies::Parameters& parameters, const ReplacementShape& shape) : Base(shape) {
    const auto capacity = static_cast<double>(shape.capacity);
    in_quota_ = static_cast<std::uint64_t>(capacity * parameters.real("in"));
    out_quota_ = static_cast<std::uint64_t>(capacity * parameters.real("out"));
  }
  void hit(const Item& item) override {
    if (list_of_[item.object] == main_queue) lists_.move_to_front(main_queue, item.object);
  }
  void miss(const Item& item) override {
    was_out_ = list_of_[item.object] == out_queue;
    if (was_out_) this->take_out(item.object);
  }
  /// libCacheSim keeps out what is larger than A1in.
  [[nodiscard]] bool admits(const Item& item) const override { return Weights::unit || item.weight <= in_quota_; }
  Object evict() override {
    // A1in may be within its quota and Am empty only where objects differ in size.
    if (held_[in_queue] <= in_quota_ && !lists_.empty(main_queue)) return this->take_last(main_queue);
    const Object oldest = this->take_last(in_queue);
    const std::uint64_t weight = weights_.of(oldest);
    if (weight <= out_quota_) {
      while (held_[out_queue] + weight > out_quota_) this->take_last(out_queue);
      this->put(out_queue, oldest);
    }
    return oldest;
  }
  void insert(const Item& item) override {
    weights_.set(item.object, item.weight);
    this->put(was_out_ ? main_queue : in_queue, item.object);
  }

 private:
  using Base::held_;
  using Base::list_of_;
  using Base::lists_;
  using Base::weights_;
  std::uint64_t in_quota_ = 0, out_quota_ = 0;
  bool was_out_ = false;  ///< the object that misses
};

}  // namespace

const ReplacementKind& two_queue() {
  static const ReplacementKind kind = make_kind<TwoQueue>(
      {.name = "2q",
       .sentence = "New objects pass a FIFO; only those referenced again after they left it enter the main LRU.",
       .citation = "Johnson, Shasha: 2Q: A low overhead high performance buffer management replacement algorithm, VLDB "
                   "1994, full version; shares as in the paper and libCacheSim's TwoQ",
       .parameters = {policies::real_parameter("in", "0.25", 0, 1, "Kin, the FIFO's share of the capacity"),
                      policies::real_parameter("out", "0.5", 0, 4, "Kout, capacity of the ghosts, as a share")}});
  return kind;
}

}  // namespace evictsim::sim::replacement

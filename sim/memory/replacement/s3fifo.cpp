#include <algorithm>

#include "sim/memory/replacement/kinds.h"
#include "sim/memory/replacement_replay.h"

namespace evictsim::sim::replacement {
namespace {

enum List : std::uint32_t { small_queue, main_queue, ghost_queue, list_count };

constexpr std::uint8_t most_references = 3;  // that a round in the main queue counts: two bits

template <typename Weights>
class S3Fifo final : public QueuesPolicy<Weights, ghost_queue, list_count> {
  using Base = QueuesPolicy<Weights, ghost_queue, list_count>;

 public:
  S3Fifo(const policies::Parameters& parameters, const ReplacementShape& shape)
      : Base(shape),
        threshold_(static_cast<unsigned>(parameters.integer("threshold"))),
        fills_main_(parameters.choice("fill") == "main"),
        references_(shape.objects) {
    const auto capacity = static_cast<double>(shape.capacity);
    small_quota_ = static_cast<std::uint64_t>(capacity * parameters.real("small"));
    main_quota_ = shape.capacity - small_quota_;
    ghost_quota_ = static_cast<std::uint64_t>(capacity * parameters.real("ghost"));
  }
  void hit(const Item& item) override {
    std::uint8_t& references = references_[item.object];
    if (references < 0xff) ++references;
  }
  void miss(const Item& item) override {
    was_ghost_ = list_of_[item.object] == ghost_queue;
    if (was_ghost_) this->take_out(item.object);
  }
  /// libCacheSim keeps out what would fill the small queue. In caches below 20 equal objects that would be everything,
  /// so it is not applied to those.
  [[nodiscard]] bool admits(const Item& item) const override { return Weights::unit || item.weight < small_quota_; }
  Object evict() override {
    evicted_ = true;
    if (held_[main_queue] <= main_quota_) {
      while (!lists_.empty(small_queue)) {
        const Object oldest = this->take_last(small_queue);
        if (references_[oldest] < threshold_) {
          remember(oldest);
          return oldest;
        }
        references_[oldest] = 0;
        this->put(main_queue, oldest);
      }
    }
    while (true) {
      const Object oldest = lists_.back(main_queue);
      std::uint8_t& references = references_[oldest];
      if (references == 0) return this->take_last(main_queue);
      references = static_cast<std::uint8_t>(std::min(references, most_references) - 1);
      lists_.move_to_front(main_queue, oldest);
    }
  }
  void insert(const Item& item) override {
    weights_.set(item.object, item.weight);
    references_[item.object] = 0;
    const bool spills = fills_main_ && !evicted_ && held_[small_queue] >= small_quota_;
    this->put(was_ghost_ || spills ? main_queue : small_queue, item.object);
  }
  void resize(std::uint32_t objects) override {
    Base::resize(objects);
    references_.resize(objects);
  }

 private:
  using Base::held_;
  using Base::list_of_;
  using Base::lists_;
  using Base::weights_;

  void remember(Object object) {
    const std::uint64_t weight = weights_.of(object);
    if (weight > ghost_quota_) return;
    while (held_[ghost_queue] + weight > ghost_quota_) this->take_last(ghost_queue);
    this->put(ghost_queue, object);
  }

  std::uint64_t small_quota_ = 0, main_quota_ = 0, ghost_quota_ = 0;
  unsigned threshold_;
  bool fills_main_;
  bool evicted_ = false;    ///< anything so far
  bool was_ghost_ = false;  ///< the object that misses
  std::vector<std::uint8_t> references_;
};

}  // namespace

const ReplacementKind& s3fifo() {
  static const ReplacementKind kind = make_kind<S3Fifo>(
      {.name = "s3fifo",
       .sentence =
           "New objects pass a small FIFO, those referenced there go to a main FIFO with reinsertion, and a ghost "
           "queue sends what returns soon straight to it.",
       .citation =
           "Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache eviction, SOSP 2023, algorithm "
           "1; sizes and threshold as in libCacheSim's S3FIFO",
       .parameters = {
           policies::real_parameter("small", "0.1", 0, 0.9, "share of the capacity for the small queue"),
           policies::real_parameter("ghost", "0.9", 0, 4, "capacity of the ghost queue, as a share"),
           policies::integer_parameter("threshold", "2", 1, 255,
                                       "references that lead from the small to the main queue"),
           policies::choice_parameter("fill", {"main", "small"},
                                      "queue that takes new objects when the small one is full and the cache is not: "
                                      "main as in libCacheSim, small as in the paper")}});
  return kind;
}

}  // namespace evictsim::sim::replacement

#include "sim/memory/replacement_cache.h"

#include <algorithm>

#include "sim/memory/replacement_replay.h"
#include "traces/error.h"

namespace evictsim::sim {

ReplacementCache::ReplacementCache(const Replacement& replacement, const ReplacementShape& shape)
    : capacity_(shape.capacity), objects_(shape.objects), unit_weights_(shape.unit_weights) {
  if (capacity_ == 0)
    throw Error(ErrorCode::invalid_argument, "a cache needs room", {.parameter = "capacity", .value = "0"});
  if (replacement.kind->sees_future) {
    throw Error(ErrorCode::unsupported, "sees the future, so it can only replay whole traces",
                {.parameter = "policy", .value = replacement.text});
  }
  policy_ = replacement.make(shape);
}

bool ReplacementCache::refer(const Item& item, const std::function<void(Object)>& evicted) {
  if (item.weight == 0 || (unit_weights_ && item.weight != 1)) {
    throw Error(ErrorCode::invalid_argument, unit_weights_ ? "expected 1" : "expected at least 1",
                {.parameter = "weight", .value = std::to_string(item.weight)});
  }
  if (item.object >= objects_) {
    // Doubling keeps the cost of growing below that of the references that made it necessary.
    objects_ = static_cast<std::uint32_t>(std::max<std::uint64_t>(
        item.object + std::uint64_t{1}, std::min<std::uint64_t>(2 * std::uint64_t{objects_}, 0xffff0000U)));
    policy_->resize(objects_);
  }
  return sim::refer(*policy_, item, capacity_, used_, [&](Object victim) {
    if (evicted) evicted(victim);
  });
}

bool ReplacementCache::erase(Object object) {
  if (!contains(object)) return false;
  used_ -= policy_->weight(object);
  policy_->erase(object);
  return true;
}

}  // namespace evictsim::sim

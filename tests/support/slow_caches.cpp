#include "tests/support/slow_caches.h"

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>

namespace evictsim::tests {
namespace {

struct Entry {
  int object = 0;
  std::uint64_t size = 1;
  std::uint64_t count = 0;  ///< references, or marks
  std::uint64_t last = 0;   ///< time of the last reference
  double priority = 0;
};

/// Oldest first.
struct Queue : std::vector<Entry> {
  [[nodiscard]] iterator find(int object) {
    return std::find_if(begin(), end(), [&](const Entry& entry) { return entry.object == object; });
  }
  [[nodiscard]] bool holds(int object) { return find(object) != end(); }
  Entry take(iterator place) {
    const Entry entry = *place;
    erase(place);
    return entry;
  }
  [[nodiscard]] std::uint64_t bytes() const {
    std::uint64_t sum = 0;
    for (const Entry& entry : *this) sum += entry.size;
    return sum;
  }
  /// A queue of ghosts: the oldest leave, and what is larger than all of it does not come in.
  void remember(const Entry& entry, std::uint64_t quota) {
    if (entry.size > quota) return;
    while (bytes() + entry.size > quota) erase(begin());
    push_back(entry);
  }
};

class SlowCache {
 public:
  SlowCache(std::uint64_t capacity, bool in_bytes) : capacity_(capacity), in_bytes_(in_bytes) {}
  virtual ~SlowCache() = default;
  bool refer(const SlowReference& reference, std::uint64_t time, std::uint64_t next) {
    time_ = time;
    next_ = next;
    if (hit(reference.object)) return true;
    if (reference.size > capacity_ || !admits(reference.size)) return false;
    while (held() + reference.size > capacity_) evict(reference.size);
    insert({.object = reference.object, .size = reference.size, .count = 0, .last = time});
    return false;
  }

 protected:
  /// Whether it is resident, and what follows from its being referenced.
  virtual bool hit(int object) = 0;
  virtual bool admits(std::uint64_t) { return true; }
  virtual std::uint64_t held() = 0;
  virtual void evict(std::uint64_t incoming) = 0;
  virtual void insert(const Entry& entry) = 0;

  std::uint64_t capacity_;
  bool in_bytes_;
  std::uint64_t time_ = 0, next_ = 0;
};

/// All policies of one queue, told apart by what a hit does and who leaves.
class OneQueue final : public SlowCache {
 public:
  OneQueue(const std::string& policy, std::uint64_t capacity, bool in_bytes)
      : SlowCache(capacity, in_bytes), policy_(policy) {}

 private:
  bool hit(int object) override {
    const auto place = queue_.find(object);
    if (place == queue_.end()) return false;
    place->last = time_;
    ++place->count;
    if (policy_ == "clock" || policy_ == "sieve") place->count = 1;
    if (policy_ == "clock(bits=2)") place->count = std::min<std::uint64_t>(place->count, 3);
    if (policy_ == "belady") place->count = next_;
    if (policy_ == "gdsf") rank(*place);
    return true;
  }
  std::uint64_t held() override { return queue_.bytes(); }
  void insert(const Entry& entry) override {
    queue_.push_back(entry);
    if (policy_ == "belady") queue_.back().count = next_;
    if (policy_ == "gdsf") rank(queue_.back());
  }
  void rank(Entry& entry) const {
    entry.priority = age_ + static_cast<double>(entry.count + 1) * 1e6 / static_cast<double>(entry.size);
  }
  void evict(std::uint64_t) override {
    if (policy_ == "fifo") {
      queue_.erase(queue_.begin());
    } else if (policy_ == "lru") {
      erase_least([](const Entry& a, const Entry& b) { return a.last < b.last; });
    } else if (policy_ == "lfu") {
      erase_least(
          [](const Entry& a, const Entry& b) { return std::pair(a.count, a.last) < std::pair(b.count, b.last); });
    } else if (policy_ == "belady") {
      erase_least([](const Entry& a, const Entry& b) { return a.count > b.count; });
    } else if (policy_ == "gdsf") {
      age_ = erase_least([](const Entry& a, const Entry& b) {
               return std::pair(a.priority, a.last) < std::pair(b.priority, b.last);
             }).priority;
    } else if (policy_ == "sieve") {
      // What is behind the hand moves up to it; past the newest it begins anew.
      while (queue_[hand_].count > 0) {
        queue_[hand_].count = 0;
        hand_ = (hand_ + 1) % queue_.size();
      }
      queue_.erase(queue_.begin() + static_cast<std::ptrdiff_t>(hand_));
      if (hand_ == queue_.size()) hand_ = 0;
    } else {
      while (queue_.front().count > 0) {
        Entry entry = queue_.take(queue_.begin());
        --entry.count;
        queue_.push_back(entry);
      }
      queue_.erase(queue_.begin());
    }
  }
  template <typename Before>
  Entry erase_least(const Before& before) {
    return queue_.take(std::min_element(queue_.begin(), queue_.end(), before));
  }

  std::string policy_;
  Queue queue_;
  std::size_t hand_ = 0;
  double age_ = 0;
};

class SlowS3Fifo final : public SlowCache {
 public:
  SlowS3Fifo(bool fills_main, std::uint64_t capacity, bool in_bytes)
      : SlowCache(capacity, in_bytes),
        fills_main_(fills_main),
        small_quota_(static_cast<std::uint64_t>(0.1 * static_cast<double>(capacity))),
        ghost_quota_(static_cast<std::uint64_t>(0.9 * static_cast<double>(capacity))) {}

 private:
  bool hit(int object) override {
    ghost_hit_ = false;
    for (Queue* queue : {&small_, &main_}) {
      const auto place = queue->find(object);
      if (place == queue->end()) continue;
      ++place->count;
      return true;
    }
    ghost_hit_ = ghost_.holds(object);
    if (ghost_hit_) ghost_.erase(ghost_.find(object));
    return false;
  }
  bool admits(std::uint64_t size) override { return !in_bytes_ || size < small_quota_; }
  std::uint64_t held() override { return small_.bytes() + main_.bytes(); }
  void evict(std::uint64_t) override {
    evicted_ = true;
    if (main_.bytes() > capacity_ - small_quota_ || small_.empty()) {
      Entry entry = main_.take(main_.begin());
      while (entry.count > 0) {
        entry.count = std::min<std::uint64_t>(entry.count, 3) - 1;
        main_.push_back(entry);
        entry = main_.take(main_.begin());
      }
      return;
    }
    while (!small_.empty()) {
      Entry entry = small_.take(small_.begin());
      if (entry.count < 2) {
        ghost_.remember(entry, ghost_quota_);
        return;
      }
      entry.count = 0;
      main_.push_back(entry);
    }
  }
  void insert(const Entry& entry) override {
    const bool spills = fills_main_ && !evicted_ && small_.bytes() >= small_quota_;
    (ghost_hit_ || spills ? main_ : small_).push_back(entry);
  }

  bool fills_main_, evicted_ = false, ghost_hit_ = false;
  std::uint64_t small_quota_, ghost_quota_;
  Queue small_, main_, ghost_;
};

class SlowTwoQueue final : public SlowCache {
 public:
  SlowTwoQueue(std::uint64_t capacity, bool in_bytes)
      : SlowCache(capacity, in_bytes), in_quota_(capacity / 4), out_quota_(capacity / 2) {}

 private:
  bool hit(int object) override {
    was_out_ = false;
    if (in_.holds(object)) return true;
    if (main_.holds(object)) {
      const Entry entry = main_.take(main_.find(object));
      main_.push_back(entry);
      return true;
    }
    was_out_ = out_.holds(object);
    if (was_out_) out_.erase(out_.find(object));
    return false;
  }
  bool admits(std::uint64_t size) override { return !in_bytes_ || size <= in_quota_; }
  std::uint64_t held() override { return in_.bytes() + main_.bytes(); }
  void evict(std::uint64_t) override {
    if (in_.bytes() > in_quota_ || main_.empty()) {
      out_.remember(in_.take(in_.begin()), out_quota_);
    } else {
      main_.erase(main_.begin());
    }
  }
  void insert(const Entry& entry) override { (was_out_ ? main_ : in_).push_back(entry); }

  std::uint64_t in_quota_, out_quota_;
  bool was_out_ = false;
  Queue in_, main_, out_;
};

/// Figure 4 of the paper, T1, T2, B1, B2 and p by their names.
class SlowArc final : public SlowCache {
 public:
  using SlowCache::SlowCache;

 private:
  bool hit(int object) override {
    in_b1_ = in_b2_ = false;
    for (Queue* queue : {&t1_, &t2_}) {
      if (!queue->holds(object)) continue;
      t2_.push_back(queue->take(queue->find(object)));
      return true;
    }
    const auto b1 = static_cast<double>(b1_.bytes());
    const auto b2 = static_cast<double>(b2_.bytes());
    in_b1_ = b1_.holds(object);
    in_b2_ = b2_.holds(object);
    if (in_b1_) {
      p_ = std::min(static_cast<double>(capacity_), p_ + std::max(b2 / b1, 1.0));
      b1_.erase(b1_.find(object));
    }
    if (in_b2_) {
      p_ = std::max(0.0, p_ - std::max(b1 / b2, 1.0));
      b2_.erase(b2_.find(object));
    }
    return false;
  }
  std::uint64_t held() override { return t1_.bytes() + t2_.bytes(); }
  void evict(std::uint64_t incoming) override {
    if (!in_b1_ && !in_b2_) {
      const std::uint64_t l1 = t1_.bytes() + b1_.bytes();
      const std::uint64_t all = l1 + t2_.bytes() + b2_.bytes();
      if (l1 + incoming > capacity_) {
        if (b1_.empty() && !t1_.empty()) {
          t1_.erase(t1_.begin());
          return;
        }
        if (!b1_.empty()) b1_.erase(b1_.begin());
      } else if (all >= 2 * capacity_ && !b2_.empty()) {
        b2_.erase(b2_.begin());
      }
    }
    const auto t1 = static_cast<double>(t1_.bytes());
    if (!t1_.empty() && (t1 > p_ || (in_b2_ && t1 == p_) || t2_.empty())) {
      b1_.push_back(t1_.take(t1_.begin()));
    } else {
      b2_.push_back(t2_.take(t2_.begin()));
    }
  }
  void insert(const Entry& entry) override { (in_b1_ || in_b2_ ? t2_ : t1_).push_back(entry); }

  Queue t1_, t2_, b1_, b2_;
  double p_ = 0;
  bool in_b1_ = false, in_b2_ = false;
};

std::unique_ptr<SlowCache> make(const std::string& policy, std::uint64_t capacity, bool in_bytes) {
  if (policy == "s3fifo") return std::make_unique<SlowS3Fifo>(true, capacity, in_bytes);
  if (policy == "s3fifo(fill=small)") return std::make_unique<SlowS3Fifo>(false, capacity, in_bytes);
  if (policy == "2q") return std::make_unique<SlowTwoQueue>(capacity, in_bytes);
  if (policy == "arc") return std::make_unique<SlowArc>(capacity, in_bytes);
  static const std::set<std::string> one_queue = {"fifo", "lru",   "lfu",   "belady",
                                                  "gdsf", "sieve", "clock", "clock(bits=2)"};
  if (!one_queue.contains(policy)) throw std::logic_error("no slow form of " + policy);
  return std::make_unique<OneQueue>(policy, capacity, in_bytes);
}

std::size_t most_hits_from(const std::vector<int>& references, std::size_t at, std::size_t capacity,
                           const std::set<int>& cache) {
  if (at == references.size()) return 0;
  const int object = references[at];
  if (cache.contains(object)) return 1 + most_hits_from(references, at + 1, capacity, cache);
  std::set<int> with = cache;
  with.insert(object);
  if (with.size() <= capacity) return most_hits_from(references, at + 1, capacity, with);
  std::size_t best = 0;
  for (const int victim : cache) {
    std::set<int> next = with;
    next.erase(victim);
    best = std::max(best, most_hits_from(references, at + 1, capacity, next));
  }
  return best;
}

}  // namespace

std::vector<bool> slow_hits(const std::string& policy, const std::vector<SlowReference>& references,
                            std::uint64_t capacity, bool in_bytes) {
  const std::unique_ptr<SlowCache> cache = make(policy, capacity, in_bytes);
  std::vector<bool> hits;
  for (std::size_t i = 0; i < references.size(); ++i) {
    std::uint64_t next = std::numeric_limits<std::uint64_t>::max();
    for (std::size_t j = i + 1; j < references.size() && next > j; ++j) {
      if (references[j].object == references[i].object) next = j;
    }
    hits.push_back(cache->refer(references[i], i, next));
  }
  return hits;
}

std::size_t most_hits(const std::vector<int>& references, std::size_t capacity) {
  return most_hits_from(references, 0, capacity, {});
}

}  // namespace evictsim::tests

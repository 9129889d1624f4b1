#pragma once
/// \file
/// Objects ordered by a key, for replacement policies that rank: an implicit heap of four children per node that knows
/// where each object is.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sim/memory/replacement.h"

namespace evictsim::sim {

/// The object of the smallest key comes out first. Keys that may be equal lead to an order that depends on history, so
/// a policy's keys must be unique or its ties without effect.
template <typename Key>
class RankedObjects {
 public:
  explicit RankedObjects(std::uint32_t objects) : places_(objects, absent) {}
  void resize(std::uint32_t objects) { places_.resize(objects, absent); }

  [[nodiscard]] bool contains(Object object) const { return places_[object] != absent; }
  [[nodiscard]] const Key& first_key() const { return heap_.front().key; }
  [[nodiscard]] Object first() const { return heap_.front().object; }
  void insert(Object object, const Key& key) {
    heap_.push_back({key, object});
    rise(heap_.size() - 1, {key, object});
  }
  void change(Object object, const Key& key) { settle(places_[object], {key, object}); }
  void erase(Object object) {
    const std::size_t place = places_[object];
    places_[object] = absent;
    const Entry last = heap_.back();
    heap_.pop_back();
    if (last.object != object) settle(place, last);
  }

 private:
  static constexpr std::uint32_t absent = 0xffffffffU;
  static constexpr std::size_t children = 4;
  struct Entry {
    Key key;
    Object object;
  };

  void put(std::size_t place, const Entry& entry) {
    heap_[place] = entry;
    places_[entry.object] = static_cast<std::uint32_t>(place);
  }
  void settle(std::size_t place, const Entry& entry) {
    if (place > 0 && entry.key < heap_[(place - 1) / children].key) {
      rise(place, entry);
    } else {
      sink(place, entry);
    }
  }
  void rise(std::size_t place, const Entry& entry) {
    while (place > 0) {
      const std::size_t parent = (place - 1) / children;
      if (!(entry.key < heap_[parent].key)) break;
      put(place, heap_[parent]);
      place = parent;
    }
    put(place, entry);
  }
  void sink(std::size_t place, const Entry& entry) {
    while (true) {
      const std::size_t first = children * place + 1;
      if (first >= heap_.size()) break;
      const std::size_t end = std::min(first + children, heap_.size());
      std::size_t least = first;
      for (std::size_t child = first + 1; child < end; ++child) {
        if (heap_[child].key < heap_[least].key) least = child;
      }
      if (!(heap_[least].key < entry.key)) break;
      put(place, heap_[least]);
      place = least;
    }
    put(place, entry);
  }

  std::vector<Entry> heap_;
  std::vector<std::uint32_t> places_;
};

/// A policy that evicts the resident object of the smallest key.
template <typename Weights, typename Key>
class RankingPolicy : public ReplacementPolicy {
 public:
  explicit RankingPolicy(const ReplacementShape& shape) : ranked_(shape.objects), weights_(shape.objects) {}
  [[nodiscard]] bool contains(Object object) const override { return ranked_.contains(object); }
  [[nodiscard]] std::uint64_t weight(Object object) const override { return weights_.of(object); }
  void miss(const Item&) override {}
  [[nodiscard]] bool admits(const Item&) const override { return true; }
  Object evict() override {
    const Object victim = ranked_.first();
    ranked_.erase(victim);
    return victim;
  }
  void erase(Object object) override { ranked_.erase(object); }
  void resize(std::uint32_t objects) override {
    ranked_.resize(objects);
    weights_.resize(objects);
  }

 protected:
  RankedObjects<Key> ranked_;
  Weights weights_;
};

}  // namespace evictsim::sim

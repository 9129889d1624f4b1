#pragma once
/// \file
/// What replacement policies are built from: doubly linked lists over numbered objects, and their weights.

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sim/memory/replacement.h"

namespace evictsim::sim {

/// `Lists` circular lists; an object is in at most one of them. All links lie in one array, those of the lists' ends
/// before those of the objects, 8 bytes each.
template <std::size_t Lists>
class ObjectLists {
 public:
  explicit ObjectLists(std::uint32_t objects) : links_(Lists + objects, {unlinked, unlinked}) {
    for (std::uint32_t list = 0; list < Lists; ++list) links_[list] = {list, list};
  }
  void resize(std::uint32_t objects) { links_.resize(Lists + objects, {unlinked, unlinked}); }

  [[nodiscard]] bool linked(Object object) const { return links_[Lists + object].previous != unlinked; }
  [[nodiscard]] bool empty(std::uint32_t list) const { return links_[list].next == list; }
  /// Of a list that is not empty.
  [[nodiscard]] Object back(std::uint32_t list) const { return links_[list].previous - offset; }
  /// The object before `object`, toward the front, or `none` when it is the first.
  [[nodiscard]] Object before(Object object) const {
    const std::uint32_t node = links_[Lists + object].previous;
    return node < Lists ? none : node - offset;
  }
  void push_front(std::uint32_t list, Object object) {
    const std::uint32_t node = object + offset;
    const std::uint32_t first = links_[list].next;
    links_[node] = {list, first};
    links_[first].previous = node;
    links_[list].next = node;
  }
  void remove(Object object) {
    Link& link = links_[Lists + object];
    links_[link.previous].next = link.next;
    links_[link.next].previous = link.previous;
    link = {unlinked, unlinked};
  }
  void move_to_front(std::uint32_t list, Object object) {
    const std::uint32_t node = object + offset;
    const std::uint32_t first = links_[list].next;
    if (first == node) return;
    Link& link = links_[node];
    links_[link.previous].next = link.next;
    links_[link.next].previous = link.previous;
    link = {list, first};
    links_[first].previous = node;
    links_[list].next = node;
  }
  /// Reads ahead what references to come will touch.
  void prefetch(Object object) const { __builtin_prefetch(&links_[Lists + object]); }
  void prefetch_neighbours(Object object) const {
    const Link& link = links_[Lists + object];
    if (link.previous == unlinked) return;
    __builtin_prefetch(&links_[link.previous]);
    __builtin_prefetch(&links_[link.next]);
  }

  static constexpr Object none = 0xffffffffU;

 private:
  static constexpr auto offset = static_cast<std::uint32_t>(Lists);
  static constexpr std::uint32_t unlinked = 0xffffffffU;
  struct Link {
    std::uint32_t previous, next;
  };
  std::vector<Link> links_;
};

/// Every object weighs 1.
class UnitWeights {
 public:
  explicit UnitWeights(std::uint32_t) {}
  void resize(std::uint32_t) {}
  [[nodiscard]] std::uint64_t of(Object) const { return 1; }
  void set(Object, std::uint64_t) {}
  static constexpr bool unit = true;
};

/// Objects weigh what they weighed when they came in.
class ByteWeights {
 public:
  explicit ByteWeights(std::uint32_t objects) : weights_(objects) {}
  void resize(std::uint32_t objects) { weights_.resize(objects); }
  [[nodiscard]] std::uint64_t of(Object object) const { return weights_[object]; }
  void set(Object object, std::uint64_t weight) { weights_[object] = weight; }
  static constexpr bool unit = false;

 private:
  std::vector<std::uint64_t> weights_;
};

/// A policy that keeps its resident objects in one list and no others.
template <typename Weights>
class ListPolicy : public ReplacementPolicy {
 public:
  explicit ListPolicy(const ReplacementShape& shape) : lists_(shape.objects), weights_(shape.objects) {}
  [[nodiscard]] bool contains(Object object) const override { return lists_.linked(object); }
  [[nodiscard]] std::uint64_t weight(Object object) const override { return weights_.of(object); }
  void miss(const Item&) override {}
  [[nodiscard]] bool admits(const Item&) const override { return true; }
  void insert(const Item& item) override {
    lists_.push_front(0, item.object);
    weights_.set(item.object, item.weight);
  }
  void erase(Object object) override { lists_.remove(object); }
  void resize(std::uint32_t objects) override {
    lists_.resize(objects);
    weights_.resize(objects);
  }
  /// See ObjectLists.
  void prefetch(Object object) const { lists_.prefetch(object); }
  void prefetch_neighbours(Object object) const { lists_.prefetch_neighbours(object); }

 protected:
  Object take_last() {
    const Object last = lists_.back(0);
    lists_.remove(last);
    return last;
  }

  ObjectLists<1> lists_;
  Weights weights_;
};

/// A policy of several queues, of which the first `Resident` hold resident objects and the others ghosts: objects that
/// left, remembered by number and weight.
template <typename Weights, std::uint32_t Resident, std::uint32_t Lists>
class QueuesPolicy : public ReplacementPolicy {
 public:
  explicit QueuesPolicy(const ReplacementShape& shape)
      : lists_(shape.objects), weights_(shape.objects), list_of_(shape.objects, outside) {}
  [[nodiscard]] bool contains(Object object) const override { return list_of_[object] < Resident; }
  [[nodiscard]] std::uint64_t weight(Object object) const override { return weights_.of(object); }
  void erase(Object object) override { take_out(object); }
  void resize(std::uint32_t objects) override {
    lists_.resize(objects);
    weights_.resize(objects);
    list_of_.resize(objects, outside);
  }

 protected:
  static constexpr std::uint8_t outside = 0xff;

  void put(std::uint32_t list, Object object) {
    lists_.push_front(list, object);
    list_of_[object] = static_cast<std::uint8_t>(list);
    held_[list] += weights_.of(object);
  }
  void take_out(Object object) {
    held_[list_of_[object]] -= weights_.of(object);
    list_of_[object] = outside;
    lists_.remove(object);
  }
  Object take_last(std::uint32_t list) {
    const Object last = lists_.back(list);
    take_out(last);
    return last;
  }

  ObjectLists<Lists> lists_;
  Weights weights_;
  std::vector<std::uint8_t> list_of_;           ///< of each object, or `outside`
  std::array<std::uint64_t, Lists> held_ = {};  ///< weight in each list
};

}  // namespace evictsim::sim

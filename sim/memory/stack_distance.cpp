#include "sim/memory/stack_distance.h"

#include <algorithm>
#include <bit>
#include <cstddef>

namespace evictsim::sim {
namespace {

using traces::Object;

constexpr std::size_t word_bits = 64;

/// The last reference of every object seen so far, as marks on a line of moments; counts the marks behind one.
class LastReferences {
 public:
  explicit LastReferences(std::uint32_t objects)
      : moments_(std::bit_ceil(2 * std::max<std::size_t>(objects, word_bits))),
        words_(moments_ / word_bits),
        sums_(words_.size() + 1),
        object_at_(moments_),
        last_(objects, unseen) {}

  /// The stack distance that a reference to `object` would have now; 0 when there was none before.
  [[nodiscard]] std::uint32_t distance(Object object) const {
    const std::uint32_t last = last_[object];
    return last == unseen ? 0 : marked_ - before(last);
  }
  void refer(Object object) {
    if (now_ == moments_) compact();
    const std::uint32_t last = last_[object];
    if (last == unseen) {
      ++marked_;
    } else {
      words_[last / word_bits] ^= bit(last);
      add(last, -1);
    }
    words_[now_ / word_bits] |= bit(now_);
    add(now_, 1);
    object_at_[now_] = object;
    last_[object] = static_cast<std::uint32_t>(now_++);
  }

 private:
  static constexpr std::uint32_t unseen = 0xffffffffU;
  static std::uint64_t bit(std::size_t moment) { return std::uint64_t{1} << moment % word_bits; }

  [[nodiscard]] std::uint32_t before(std::size_t moment) const {
    std::uint32_t count = static_cast<std::uint32_t>(std::popcount(words_[moment / word_bits] & (bit(moment) - 1)));
    for (std::size_t i = moment / word_bits; i > 0; i &= i - 1) count += sums_[i];
    return count;
  }
  void add(std::size_t moment, std::int32_t difference) {
    for (std::size_t i = moment / word_bits + 1; i < sums_.size(); i += i & (~i + 1)) {
      sums_[i] += static_cast<std::uint32_t>(difference);
    }
  }
  /// Moves the marks, at most half as many as moments, to the beginning.
  void compact() {
    std::size_t next = 0;
    for (std::size_t moment = 0; moment < moments_; ++moment) {
      if ((words_[moment / word_bits] & bit(moment)) == 0) continue;
      const Object object = object_at_[moment];
      object_at_[next] = object;
      last_[object] = static_cast<std::uint32_t>(next++);
    }
    std::fill(words_.begin(), words_.end(), 0);
    std::fill(sums_.begin(), sums_.end(), 0);
    for (std::size_t moment = 0; moment < next; ++moment) words_[moment / word_bits] |= bit(moment);
    for (std::size_t i = 1; i < sums_.size(); ++i) {
      sums_[i] += static_cast<std::uint32_t>(std::popcount(words_[i - 1]));
      if (const std::size_t parent = i + (i & (~i + 1)); parent < sums_.size()) sums_[parent] += sums_[i];
    }
    now_ = next;
  }

  std::size_t moments_;
  std::vector<std::uint64_t> words_;  ///< a bit for each moment that is some object's last reference
  std::vector<std::uint32_t> sums_;   ///< a Fenwick tree over the counts of the words
  std::vector<Object> object_at_;     ///< referenced at each moment
  std::vector<std::uint32_t> last_;   ///< moment of each object
  std::size_t now_ = 0;
  std::uint32_t marked_ = 0;
};

}  // namespace

std::vector<std::uint32_t> stack_distances(const traces::BlockTrace& trace) {
  LastReferences last(trace.objects);
  std::vector<std::uint32_t> distances;
  distances.reserve(trace.references.size());
  if (trace.request_ends.empty()) {
    for (const Object object : trace.references) {
      distances.push_back(last.distance(object));
      last.refer(object);
    }
  }
  std::size_t first = 0;
  for (const std::size_t end : trace.request_ends) {
    for (std::size_t i = first; i < end; ++i) distances.push_back(last.distance(trace.references[i]));
    for (; first < end; ++first) last.refer(trace.references[first]);
  }
  return distances;
}

std::vector<std::uint64_t> lru_hits(std::span<const std::uint32_t> distances, std::span<const std::uint64_t> sizes) {
  const std::uint32_t largest = distances.empty() ? 0 : *std::max_element(distances.begin(), distances.end());
  std::vector<std::uint64_t> within(std::size_t{largest} + 1);
  for (const std::uint32_t distance : distances) ++within[distance];
  within[0] = 0;
  for (std::size_t distance = 1; distance < within.size(); ++distance) within[distance] += within[distance - 1];
  std::vector<std::uint64_t> hits;
  for (const std::uint64_t size : sizes) hits.push_back(within[std::min<std::uint64_t>(size, largest)]);
  return hits;
}

}  // namespace evictsim::sim

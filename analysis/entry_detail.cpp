#include "analysis/entry_detail.h"

#include <cmath>
#include <limits>

namespace evictsim::analysis {
namespace {

constexpr double unit = 1099511627776.0;  // 2^40: a thousand layers of a thousand heads stay below 2^63

}  // namespace

void EntryDetail::Sums::resize(std::size_t slots, std::size_t entries) {
  entries_ = entries;
  sums_.assign(slots * entries, 0);
  parts_.assign(slots, 0);
}

void EntryDetail::Sums::add(std::size_t slot, std::span<const double> values) {
  for (std::size_t entry = 0; entry < entries_; ++entry) {
    sums_[slot * entries_ + entry] += std::llround(values[entry] * unit);
  }
  ++parts_[slot];
}

void EntryDetail::Sums::add(std::size_t slot, std::span<const std::int32_t> entries) {
  for (const std::int32_t entry : entries) {
    sums_[slot * entries_ + static_cast<std::size_t>(entry)] += static_cast<std::int64_t>(unit);
  }
  ++parts_[slot];
}

std::vector<float> EntryDetail::Sums::means() const {
  std::vector<float> means;
  means.reserve(sums_.size());
  for (std::size_t place = 0; place < sums_.size(); ++place) {
    const std::int64_t parts = parts_[place / entries_];
    means.push_back(parts == 0
                        ? std::numeric_limits<float>::quiet_NaN()
                        : static_cast<float>(static_cast<double>(sums_[place]) / (unit * static_cast<double>(parts))));
  }
  return means;
}

EntryDetail::EntryDetail(const sim::SequenceStart& start, std::size_t points, DetailAxes axes)
    : axes_(axes),
      layers_(start.layers.size()),
      query_heads_(static_cast<std::size_t>(start.query_heads)),
      prompt_length_(static_cast<std::size_t>(start.prompt_length)),
      length_(static_cast<std::size_t>(start.length)),
      points_(points) {}

std::size_t EntryDetail::slots(std::size_t heads) const { return (axes_.layer ? layers_ : 1) * heads; }

std::size_t EntryDetail::slot(std::size_t layer, std::size_t head, std::size_t heads) const {
  return (axes_.layer ? layer * heads : 0) + (heads > 1 ? head : 0);
}

void EntryDetail::add(const sim::PromptCut& cut) {
  Point& point = points_[cut.point];
  const bool packed = axes_.layer && axes_.head;
  const auto cache_heads = static_cast<std::size_t>(cut.cache_heads);
  if (point.cache_heads == 0) {
    point.cache_heads = cache_heads;
    if (packed) {
      point.kept_bits.assign(layers_ * cache_heads * bytes_per_head(), 0);
    } else {
      point.kept.resize(slots(axes_.head ? cache_heads : 1), prompt_length_);
    }
  }
  for (std::size_t head = 0; head < cache_heads; ++head) {
    if (!packed) {
      point.kept.add(slot(cut.layer, head, axes_.head ? cache_heads : 1), cut.kept[head]);
      continue;
    }
    std::uint8_t* bytes = point.kept_bits.data() + (cut.layer * cache_heads + head) * bytes_per_head();
    for (const std::int32_t row : cut.kept[head]) {
      std::uint8_t& byte = bytes[row / 8];
      byte = static_cast<std::uint8_t>(byte | 1 << (row % 8));
    }
  }
}

void EntryDetail::add(const sim::FullEntries& entries) {
  const std::size_t heads = axes_.head ? query_heads_ : 1;
  if (attention_.empty()) {
    attention_.resize(slots(heads), length_);
    attended_most_.resize(slots(heads), length_);
  }
  for (std::size_t head = 0; head < query_heads_; ++head) {
    attention_.add(slot(entries.layer, head, heads), entries.attention[head]);
    attended_most_.add(slot(entries.layer, head, heads), entries.attended_most[head]);
  }
}

void EntryDetail::add(const sim::EntryLosses& losses) {
  Point& point = points_[losses.point];
  if (point.lost_mass.empty()) {
    point.lost_mass.resize(slots(1), length_);
    point.premature.resize(slots(1), length_);
  }
  point.lost_mass.add(slot(losses.layer, 0, 1), losses.lost_mass);
  point.premature.add(slot(losses.layer, 0, 1), losses.premature_evictions);
}

EntryArray EntryDetail::array(const char* name, const Sums& sums, bool by_head, std::size_t heads) const {
  EntryArray array{.name = name, .axes = "entry", .shape = {}, .values = sums.means(), .bits = {}};
  if (by_head) {
    array.axes = "head," + array.axes;
    array.shape.push_back(heads);
  }
  if (axes_.layer) {
    array.axes = "layer," + array.axes;
    array.shape.insert(array.shape.begin(), layers_);
  }
  array.shape.push_back(array.values.size() / sums.slots());
  return array;
}

std::vector<EntryArray> EntryDetail::full() const {
  if (attention_.empty()) return {};
  return {array("entry_attention_full", attention_, axes_.head, query_heads_),
          array("entry_attended_most_full", attended_most_, axes_.head, query_heads_)};
}

std::vector<EntryArray> EntryDetail::of(std::size_t index) const {
  const Point& point = points_[index];
  std::vector<EntryArray> arrays;
  if (!point.kept_bits.empty()) {
    arrays.push_back({.name = "entry_kept",
                      .axes = "layer,head,entry",
                      .shape = {layers_, point.cache_heads, bytes_per_head()},
                      .values = {},
                      .bits = point.kept_bits,
                      .entries = prompt_length_});
  } else if (!point.kept.empty()) {
    arrays.push_back(array("entry_kept", point.kept, axes_.head, point.cache_heads));
  }
  if (point.lost_mass.empty()) return arrays;
  arrays.push_back(array("entry_lost_mass", point.lost_mass, false, 1));
  arrays.push_back(array("entry_premature", point.premature, false, 1));
  return arrays;
}

}  // namespace evictsim::analysis

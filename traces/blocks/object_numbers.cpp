#include "traces/blocks/object_numbers.h"

#include <bit>

#include "traces/error.h"

namespace evictsim::traces {
namespace {

constexpr Object no_number = 0xffffffffU;
constexpr Object most_objects = 0xffff0000U;  // what lies above is free for marks of those who number with us
constexpr std::size_t first_size = 1U << 12U;
constexpr std::size_t look_ahead = 16;

}  // namespace

ObjectNumbers::ObjectNumbers()
    : entries_(first_size, {0, no_number}), shift_(64U - static_cast<unsigned>(std::countr_zero(first_size))) {}

std::size_t ObjectNumbers::place(std::uint64_t name) const {
  // The high bits of a product with the golden ratio: sequential names spread evenly (Knuth, TAOCP 3, 6.4); folding the
  // high half in first keeps names apart that differ only there.
  return static_cast<std::size_t>(((name ^ (name >> 32U)) * 0x9e3779b97f4a7c15ULL) >> shift_);
}

Object ObjectNumbers::add() {
  if (count_ >= most_objects)
    throw Error(ErrorCode::unsupported, "a trace may have at most 4294901760 distinct objects");
  return count_++;
}

Object ObjectNumbers::of(std::uint64_t name) {
  const std::size_t mask = entries_.size() - 1;
  std::size_t at = place(name);
  while (entries_[at].number != no_number) {
    if (entries_[at].name == name) return entries_[at].number;
    at = (at + 1) & mask;
  }
  const Object number = add();
  entries_[at] = {name, number};
  if (2 * static_cast<std::size_t>(++numeric_) > entries_.size()) grow();
  return number;
}

Object ObjectNumbers::of_text(std::string_view name) {
  const auto [entry, added] = texts_.try_emplace(std::string(name), no_number);
  if (added) entry->second = add();
  return entry->second;
}

void ObjectNumbers::append(std::span<const std::uint64_t> names, std::vector<Object>& numbers) {
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (i + look_ahead < names.size()) __builtin_prefetch(&entries_[place(names[i + look_ahead])]);
    numbers.push_back(of(names[i]));
  }
}

void ObjectNumbers::grow() {
  std::vector<Entry> old(4 * entries_.size(), {0, no_number});
  old.swap(entries_);
  shift_ -= 2;
  const std::size_t mask = entries_.size() - 1;
  for (const Entry& entry : old) {
    if (entry.number == no_number) continue;
    std::size_t at = place(entry.name);
    while (entries_[at].number != no_number) at = (at + 1) & mask;
    entries_[at] = entry;
  }
}

}  // namespace evictsim::traces

#include "sim/memory/block_numbers.h"

#include <bit>

#include "traces/error.h"

namespace evictsim::sim {
namespace {

constexpr std::size_t most_numbers = 0xffff0000U;
constexpr std::size_t first_table = 1024;

}  // namespace

/// Where the hash is, or the free place where it would be (Fibonacci hashing: Knuth, TAOCP 3, 6.4).
std::size_t BlockNumbers::place_of(std::uint64_t hash) const {
  const std::size_t mask = table_.size() - 1;
  std::size_t place = static_cast<std::size_t>((hash ^ hash >> 32U) * 0x9e3779b97f4a7c15ULL >> shift_);
  while (table_[place] != 0 && hashes_[table_[place] - 1] != hash) place = (place + 1) & mask;
  return place;
}

std::optional<Object> BlockNumbers::find(std::uint64_t hash) const {
  if (table_.empty()) return std::nullopt;
  const Object found = table_[place_of(hash)];
  if (found == 0) return std::nullopt;
  return found - 1;
}

Object BlockNumbers::number(std::uint64_t hash) {
  if (2 * (hashes_.size() + 1) > table_.size()) grow();
  Object& place = table_[place_of(hash)];
  if (place == 0) {
    if (hashes_.size() == most_numbers) {
      throw Error(ErrorCode::unsupported, "more different blocks than this simulation can tell apart",
                  {.parameter = "blocks", .value = std::to_string(most_numbers)});
    }
    hashes_.push_back(hash);
    place = size();
  }
  return place - 1;
}

void BlockNumbers::grow() {
  table_.assign(table_.empty() ? first_table : 2 * table_.size(), 0);
  shift_ = 64U - static_cast<unsigned>(std::countr_zero(table_.size()));
  for (Object number = 0; number < hashes_.size(); ++number) table_[place_of(hashes_[number])] = number + 1;
}

}  // namespace evictsim::sim

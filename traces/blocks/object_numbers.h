#pragma once
/// \file
/// Numbers objects in the order of their first reference. Internal to traces/blocks/.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "traces/blocks/block_trace.h"

namespace evictsim::traces {

/// A hash table with open addressing for 64-bit names, and another for names in text; both share the numbers.
class ObjectNumbers {
 public:
  ObjectNumbers();

  /// Throws Error(unsupported) beyond 2^32 - 2^16 objects.
  Object of(std::uint64_t name);
  Object of_text(std::string_view name);
  /// The numbers of many names at once, appended to `numbers`: the look-ups overlap.
  void append(std::span<const std::uint64_t> names, std::vector<Object>& numbers);
  [[nodiscard]] std::uint32_t count() const { return count_; }

 private:
  struct Entry {
    std::uint64_t name;
    Object number;  ///< unused in free entries
  };
  [[nodiscard]] std::size_t place(std::uint64_t name) const;
  Object add();
  void grow();

  std::vector<Entry> entries_;  ///< a power of two, at most half in use
  unsigned shift_;
  std::uint32_t count_ = 0;
  std::uint32_t numeric_ = 0;
  std::unordered_map<std::string, Object> texts_;
};

}  // namespace evictsim::traces

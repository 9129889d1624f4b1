#pragma once
/// \file
/// A scratch file for what arrives in any order and is written in a fixed one. Internal to analysis/run_file_dump.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "traces/file_system.h"

namespace evictsim::analysis {

/// Bytes put aside on disk. The file has no name once it is open, so that nothing is left behind however the process
/// ends. Members throw Error(io_failure, permission_denied, file_not_found).
class DumpSpool {
 public:
  /// Where some values lie.
  struct Place {
    std::uint64_t offset = 0;
    std::size_t count = 0;  ///< of values
  };

  /// `beside`: the result file, in whose folder the bytes go.
  explicit DumpSpool(const std::filesystem::path& beside);

  template <typename Value>
  Place append(const std::vector<Value>& values) {
    const Place place{size_, values.size()};
    append_bytes(values.data(), values.size() * sizeof(Value));
    return place;
  }
  template <typename Value>
  [[nodiscard]] std::vector<Value> read(const Place& place) const {
    std::vector<Value> values(place.count);
    read_bytes(place.offset, values.data(), values.size() * sizeof(Value));
    return values;
  }
  void clear();

 private:
  void append_bytes(const void* bytes, std::size_t count);
  void read_bytes(std::uint64_t offset, void* bytes, std::size_t count) const;

  std::filesystem::path path_;  ///< for messages
  traces::FileDescriptor file_;
  std::uint64_t size_ = 0;
};

}  // namespace evictsim::analysis

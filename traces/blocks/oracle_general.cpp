// A record of libCacheSim's oracleGeneral format, packed and little-endian: uint32 time in seconds, uint64 object,
// uint32 size in bytes, int64 index of the object's next reference. The last is found anew from the references.
#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "traces/blocks/block_readers.h"
#include "traces/blocks/object_numbers.h"
#include "traces/error.h"
#include "traces/file_system.h"

namespace evictsim::traces {
namespace {

constexpr std::size_t record_bytes = 24;
constexpr std::size_t records_at_once = 4096;
constexpr std::size_t object_place = 4, size_place = 12;

template <typename Integer>
Integer integer_at(const char* bytes) {
  Integer value{};
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

}  // namespace

BlockTrace read_oracle_general(const std::filesystem::path& path) {
  const std::uint64_t bytes = readable_file_size(path);
  const auto error = [&](std::uint64_t record, ErrorCode code, const std::string& what, const std::string& field = {},
                         const std::string& value = {}) {
    return Error(
        code, what,
        {.file = path.string(), .dataset = "record " + std::to_string(record), .parameter = field, .value = value});
  };
  const std::uint64_t records = bytes / record_bytes;
  if (bytes % record_bytes != 0) {
    throw error(records + 1, ErrorCode::invalid_value,
                "is cut off: the file has " + std::to_string(bytes) + " bytes, no multiple of 24");
  }
  BlockTrace trace;
  trace.references.reserve(records);
  trace.sizes.reserve(records);
  ObjectNumbers numbers;
  std::ifstream stream(path, std::ios::binary);
  std::vector<char> buffer(record_bytes * records_at_once);
  std::vector<std::uint64_t> names;
  std::uint32_t last_time = 0;
  for (std::uint64_t done = 0; done < records;) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(records_at_once, records - done));
    if (!stream.read(buffer.data(), static_cast<std::streamsize>(count * record_bytes))) {
      throw Error(ErrorCode::io_failure, "cannot be read", {.file = path.string()});
    }
    names.clear();
    for (std::size_t i = 0; i < count; ++i) {
      const char* record = buffer.data() + i * record_bytes;
      const auto time = integer_at<std::uint32_t>(record);
      const auto size = integer_at<std::uint32_t>(record + size_place);
      if (time < last_time) {
        throw error(done + i + 1, ErrorCode::invalid_value, "earlier than the record before: times must not go back",
                    "time", std::to_string(time));
      }
      if (size == 0) throw error(done + i + 1, ErrorCode::invalid_value, "expected at least 1 byte", "size", "0");
      last_time = time;
      names.push_back(integer_at<std::uint64_t>(record + object_place));
      trace.sizes.push_back(size);
    }
    numbers.append(names, trace.references);
    done += count;
  }
  trace.objects = numbers.count();
  return trace;
}

}  // namespace evictsim::traces

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "traces/blocks/block_readers.h"
#include "traces/blocks/object_numbers.h"
#include "traces/error.h"

namespace evictsim::traces {
namespace {

using nlohmann::json;

/// A value as errors quote it; lists and objects, which may be deep, by their kind.
std::string quoted(const json& value) { return value.is_primitive() ? value.dump() : value.type_name(); }

class Lines {
 public:
  explicit Lines(const std::filesystem::path& path) : path_(path), stream_(path, std::ios::binary) {}

  /// The next line that is not blank.
  bool next(std::string& line) {
    while (std::getline(stream_, line)) {
      ++number_;
      if (line.find_first_not_of(" \t\r") != std::string::npos) return true;
    }
    if (stream_.bad()) throw Error(ErrorCode::io_failure, "cannot be read", {.file = path_.string()});
    return false;
  }
  [[nodiscard]] Error error(ErrorCode code, const std::string& what, const std::string& field = {},
                            const std::string& value = {}) const {
    return {code, what, {.file = path_.string(), .dataset = line_name(number_), .parameter = field, .value = value}};
  }

 private:
  std::filesystem::path path_;
  std::ifstream stream_;
  std::size_t number_ = 0;
};

}  // namespace

BlockTrace read_mooncake_blocks(const std::filesystem::path& path, BlockLookup lookup) {
  Lines lines(path);
  BlockTrace trace;
  ObjectNumbers numbers;
  double last_time = 0;
  for (std::string line; lines.next(line);) {
    const json request = json::parse(line, nullptr, false);
    if (request.is_discarded()) throw lines.error(ErrorCode::wrong_type, "not JSON: expected one object a line");
    if (!request.is_object()) throw lines.error(ErrorCode::wrong_type, "expected a JSON object");
    if (const auto time = request.find("timestamp"); time != request.end()) {
      if (!time->is_number()) throw lines.error(ErrorCode::wrong_type, "expected a number", "timestamp", quoted(*time));
      const double value = time->get<double>();
      if (value < 0) throw lines.error(ErrorCode::invalid_value, "times are not negative", "timestamp", quoted(*time));
      if (value < last_time) {
        throw lines.error(ErrorCode::invalid_value, "earlier than the line before: times must not go back", "timestamp",
                          quoted(*time));
      }
      last_time = value;
    }
    const auto blocks = request.find("hash_ids");
    if (blocks == request.end()) throw lines.error(ErrorCode::missing_data, "has no hash_ids");
    if (!blocks->is_array()) throw lines.error(ErrorCode::wrong_type, "expected a list of whole numbers", "hash_ids");
    const auto first = static_cast<std::ptrdiff_t>(trace.references.size());
    for (const json& block : *blocks) {
      if (!block.is_number_integer()) {
        throw lines.error(ErrorCode::wrong_type, "expected whole numbers below 2^64", "hash_ids", quoted(block));
      }
      trace.references.push_back(numbers.of(block.is_number_unsigned()
                                                ? block.get<std::uint64_t>()
                                                : static_cast<std::uint64_t>(block.get<std::int64_t>())));
    }
    if (lookup == BlockLookup::prompt && !blocks->empty()) {
      std::reverse(trace.references.begin() + first, trace.references.end());
      trace.request_ends.push_back(trace.references.size());
    }
  }
  trace.objects = numbers.count();
  return trace;
}

}  // namespace evictsim::traces

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "traces/blocks/block_readers.h"
#include "traces/blocks/object_numbers.h"
#include "traces/error.h"
#include "traces/text_lines.h"

namespace evictsim::traces {
using nlohmann::json;

BlockTrace read_mooncake_blocks(const std::filesystem::path& path, BlockLookup lookup) {
  TextLines lines(path);
  BlockTrace trace;
  ObjectNumbers numbers;
  double last_time = 0;
  for (std::string line; lines.next(line);) {
    const json request = json_object(lines, line);
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
    for (const json& block : *blocks) trace.references.push_back(numbers.of(block_name(lines, "hash_ids", block)));
    if (lookup == BlockLookup::prompt && !blocks->empty()) {
      std::reverse(trace.references.begin() + first, trace.references.end());
      trace.request_ends.push_back(trace.references.size());
    }
  }
  trace.objects = numbers.count();
  return trace;
}

}  // namespace evictsim::traces

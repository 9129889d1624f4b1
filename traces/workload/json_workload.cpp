#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "traces/workload/workload_readers.h"

namespace evictsim::traces {
namespace {

using nlohmann::json;

/// The fields of a format of JSON lines.
struct Fields {
  WorkloadFormat format;
  const char* mark;  ///< a field that only this format has
  const char *time, *prompt, *output;
  double time_unit;         ///< nanoseconds
  int prefix_block_tokens;  ///< of hash_ids; 0: the format has none
  const char* session;      ///< nullptr: the format has none
  std::vector<std::string_view> unused;
};

const std::vector<Fields>& known_formats() {
  static const std::vector<Fields> formats = {
      // A chat's first request is its name; later turns name the request before them, so chains stand for sessions only
      // through hash_ids.
      {WorkloadFormat::qwen_bailian,
       "chat_id",
       "timestamp",
       "input_length",
       "output_length",
       1e9,
       16,
       nullptr,
       {"chat_id", "parent_chat_id", "type", "turn"}},
      {WorkloadFormat::mooncake,
       "input_length",
       "timestamp",
       "input_length",
       "output_length",
       1e6,
       512,
       "session_id",
       {}},
      {WorkloadFormat::llmservingsim,
       "input_toks",
       "arrival_time_ns",
       "input_toks",
       "output_toks",
       1,
       0,
       nullptr,
       {"input_tok_ids", "output_tok_ids"}},
  };
  return formats;
}

constexpr const char* blocks_field = "hash_ids";

const Fields& fields_of(const TextLines& lines, const json& first) {
  for (const Fields& fields : known_formats()) {
    if (first.contains(fields.mark)) return fields;
  }
  throw lines.error(ErrorCode::unsupported,
                    "no known format of requests: expected timestamp, input_length, output_length and hash_ids "
                    "(Mooncake), or arrival_time_ns, input_toks and output_toks (LLMServingSim)");
}

class JsonRows {
 public:
  JsonRows(const TextLines& lines, const Fields& fields, bool lengths_only)
      : lines_(lines), fields_(fields), rows_(lines, lengths_only) {}

  void take(const json& object) {
    check_names(object);
    WorkloadRequest request;
    if (!rows_.lengths_only()) take_time(get(object, fields_.time));
    request.prompt_tokens = tokens(object, fields_.prompt);
    request.output_tokens = tokens(object, fields_.output);
    if (fields_.session != nullptr && object.contains(fields_.session)) {
      const json& name = object.at(fields_.session);
      request.session = rows_.session(name.is_string() ? name.get<std::string>() : name.is_null() ? "" : name.dump());
    }
    if (fields_.prefix_block_tokens > 0 && object.contains(blocks_field)) take_blocks(object.at(blocks_field), request);
    rows_.add(std::move(request));
  }
  Workload finish() { return rows_.take(fields_.format); }

 private:
  void check_names(const json& object) const {
    for (const auto& [name, value] : object.items()) {
      const bool blocks = fields_.prefix_block_tokens > 0 && name == blocks_field;
      const bool session = fields_.session != nullptr && name == fields_.session;
      if (blocks || session || name == fields_.time || name == fields_.prompt || name == fields_.output) continue;
      if (std::find(fields_.unused.begin(), fields_.unused.end(), name) != fields_.unused.end()) continue;
      throw lines_.error(
          ErrorCode::unknown_name,
          std::string("no field of the format ") + to_string(fields_.format) + "; remove it if it does not matter",
          "field", name);
    }
  }
  [[nodiscard]] const json& get(const json& object, const char* name) const {
    const auto found = object.find(name);
    if (found == object.end()) throw lines_.error(ErrorCode::missing_data, "is missing", name);
    return *found;
  }
  void take_time(const json& time) {
    const std::string text = quoted(time);
    std::optional<std::int64_t> nanoseconds;
    if (time.is_number_integer() && fields_.time_unit == 1) {
      nanoseconds = time.get<std::int64_t>();
    } else if (time.is_number()) {
      nanoseconds = to_nanoseconds(time.get<double>(), fields_.time_unit);
    }
    if (!nanoseconds) throw lines_.error(ErrorCode::wrong_type, "expected a time in numbers", fields_.time, text);
    rows_.arrival(*nanoseconds, fields_.time, text);
  }
  [[nodiscard]] std::int64_t tokens(const json& object, const char* name) const {
    const json& value = get(object, name);
    std::optional<std::int64_t> count;
    if (value.is_number_integer()) count = value.get<std::int64_t>();
    return rows_.tokens(count, name, quoted(value));
  }
  void take_blocks(const json& names, WorkloadRequest& request) const {
    if (!names.is_array()) throw lines_.error(ErrorCode::wrong_type, "expected a list of whole numbers", blocks_field);
    const std::int64_t size = fields_.prefix_block_tokens;
    if (static_cast<std::int64_t>(names.size()) > (request.prompt_tokens + size - 1) / size) {
      throw lines_.error(ErrorCode::invalid_value,
                         "more blocks of " + std::to_string(size) + " tokens than the prompt has", blocks_field,
                         std::to_string(names.size()) + " names");
    }
    if (names.empty()) return;
    request.prefix_block_tokens = fields_.prefix_block_tokens;
    for (const json& name : names) request.prefix_blocks.push_back(block_name(lines_, blocks_field, name));
  }

  const TextLines& lines_;
  const Fields& fields_;
  WorkloadRows rows_;
};

}  // namespace

Workload read_json_workload(TextLines& lines, std::string first, bool lengths_only) {
  std::string line = std::move(first);
  const json object = json_object(lines, line);
  JsonRows rows(lines, fields_of(lines, object), lengths_only);
  rows.take(object);
  while (lines.next(line)) rows.take(json_object(lines, line));
  return rows.finish();
}

}  // namespace evictsim::traces

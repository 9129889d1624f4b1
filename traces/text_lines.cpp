#include "traces/text_lines.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "traces/file_system.h"

namespace evictsim::traces {
namespace {

constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";
constexpr const char* blanks = " \t\r";

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(blanks);
  if (first == std::string_view::npos) return {};
  text = text.substr(first, text.find_last_not_of(blanks) - first + 1);
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') text = text.substr(1, text.size() - 2);
  return text;
}

}  // namespace

TextLines::TextLines(std::filesystem::path path) : path_(std::move(path)) {
  readable_file_size(path_);
  stream_.open(path_, std::ios::binary);
}

bool TextLines::next(std::string& line) {
  while (std::getline(stream_, line)) {
    if (++number_ == 1 && line.starts_with(byte_order_mark)) line.erase(0, byte_order_mark.size());
    if (line.find_first_not_of(blanks) != std::string::npos) return true;
  }
  if (!stream_.eof()) throw file_error(ErrorCode::io_failure, "cannot be read");
  return false;
}

Error TextLines::error(ErrorCode code, const std::string& what, const std::string& field,
                       std::string_view value) const {
  return {code,
          what,
          {.file = path_.string(),
           .dataset = "line " + std::to_string(number_),
           .parameter = field,
           .value = std::string(value)}};
}

Error TextLines::file_error(ErrorCode code, const std::string& what) const {
  return {code, what, {.file = path_.string()}};
}

void split_csv(std::string_view line, std::vector<std::string_view>& fields) {
  fields.clear();
  std::size_t begin = 0;
  bool quoted = false;
  for (std::size_t at = 0; at < line.size(); ++at) {
    if (line[at] == '"') quoted = !quoted;
    if (line[at] != ',' || quoted) continue;
    fields.push_back(trimmed(line.substr(begin, at - begin)));
    begin = at + 1;
  }
  fields.push_back(trimmed(line.substr(begin)));
}

nlohmann::json json_object(const TextLines& lines, const std::string& line) {
  nlohmann::json object = nlohmann::json::parse(line, nullptr, false);
  if (object.is_discarded()) throw lines.error(ErrorCode::wrong_type, "not JSON: expected one object a line");
  if (!object.is_object()) throw lines.error(ErrorCode::wrong_type, "expected a JSON object");
  return object;
}

std::string quoted(const nlohmann::json& value) { return value.is_primitive() ? value.dump() : value.type_name(); }

std::uint64_t block_name(const TextLines& lines, const std::string& field, const nlohmann::json& value) {
  if (!value.is_number_integer()) {
    throw lines.error(ErrorCode::wrong_type, "expected whole numbers below 2^64", field, quoted(value));
  }
  return value.is_number_unsigned() ? value.get<std::uint64_t>()
                                    : static_cast<std::uint64_t>(value.get<std::int64_t>());
}

}  // namespace evictsim::traces

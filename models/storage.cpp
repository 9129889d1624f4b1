#include "models/storage.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "models/data_files.h"
#include "models/json_fields.h"
#include "traces/error.h"

namespace evictsim::models {
namespace {

using Range = JsonFields::Range;

constexpr const char* format_name = "evictsim-storage";
constexpr int format_version = 1;

StorageRate read_rate(JsonFields fields) {
  StorageRate rate;
  rate.latency_seconds = fields.number("latency_seconds", Range::not_negative);
  rate.bytes_per_second = fields.number("bytes_per_second", Range::positive);
  rate.seconds_per_piece = fields.optional_number("seconds_per_piece", Range::not_negative).value_or(0);
  fields.finish();
  return rate;
}

}  // namespace

Storage read_storage(const std::filesystem::path& file) {
  const nlohmann::json root = parse_json_file(file);
  JsonFields fields(root, file.string());
  fields.expect_format(format_name, format_version);
  Storage storage;
  storage.name = fields.text("name");
  storage.product = fields.text("product");
  storage.sources = fields.texts("sources");
  if (storage.sources.empty()) fields.refuse("sources", "must say where the figures come from");
  storage.read = read_rate(fields.object("read"));
  storage.write = read_rate(fields.object("write"));
  storage.combined_bytes_per_second = fields.optional_number("combined_bytes_per_second", Range::positive);
  fields.finish();
  return storage;
}

Storage find_storage(const std::string& name) { return read_storage(find_data_file("storage", name)); }

}  // namespace evictsim::models

#include "traces/model_record.h"

#include <optional>
#include <string_view>

#include "traces/block_checksum.h"
#include "traces/file_system.h"

namespace evictsim::traces {

using hdf5::Node;

namespace {

constexpr std::string_view prefix = "model-", suffix = ".h5";
constexpr std::size_t digits = 16;

}  // namespace

std::string model_record_name(const std::string& checksum) {
  const std::string own = checksum.substr(std::string_view(block_checksum_prefix).size(), digits);
  return std::string(prefix) + own + std::string(suffix);
}

bool is_model_record_name(const std::string& name) {
  return name.size() == prefix.size() + digits + suffix.size() && name.starts_with(prefix) && name.ends_with(suffix) &&
         name.find_first_not_of("0123456789abcdef", prefix.size()) == prefix.size() + digits;
}

Node open_weights(const Node& root, const std::filesystem::path& trace) {
  Node model = root.group("model");
  const auto wrong = [&](const std::string& name, const std::string& rule, const std::string& value) {
    return Error(ErrorCode::wrong_type, rule,
                 {.file = trace.string(), .dataset = "/model/" + name, .parameter = {}, .value = value});
  };
  std::optional<std::string> record;
  std::string stored;  // here, and of what a record holds
  for (const std::string& name : model.names()) {
    const std::optional<hdf5::ExternalLink> link = model.external_link(name);
    if (!link) {
      if (name.starts_with("layer_") || name == "unembedding" || name == "final_norm") stored = name;
      continue;
    }
    if (link->file.empty() || link->file == "." || link->file == ".." || link->file.find('/') != std::string::npos ||
        link->object != "/" + name) {
      throw wrong(name, "must be an object of this file, or of the same name in a model record beside it",
                  link->file + ":" + link->object);
    }
    if (record && *record != link->file) throw wrong(name, "must lie in the model record " + *record, link->file);
    record = link->file;
  }
  if (!record) return model;
  if (!stored.empty()) throw wrong(stored, "must lie in the model record, as the other weights do", *record);
  const std::filesystem::path file = trace.parent_path() / *record;
  std::uint64_t size = 0;
  try {
    size = readable_file_size(file);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::file_not_found) throw;
    throw Error(ErrorCode::file_not_found, "is missing; the weights of " + trace.string() + " lie in it, beside it",
                {.file = file.string()});
  }
  Node weights = Node::open_file(file.string(), size);
  if (!weights.has_attribute("format") || weights.text_attribute("format") != model_record_format) {
    throw Error(ErrorCode::not_a_trace, "must be a model record; the trace links to it as one",
                {.file = file.string()});
  }
  return weights;
}

}  // namespace evictsim::traces

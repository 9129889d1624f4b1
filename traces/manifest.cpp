#include "traces/manifest.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <nlohmann/json.hpp>

#include "traces/checksum.h"
#include "traces/file_system.h"
#include "traces/reader.h"

namespace evictsim::traces {
namespace {

Shard parse_line(const std::string& line, const std::filesystem::path& manifest, std::size_t number) {
  const auto broken = [&](const std::string& rule) {
    return Error(ErrorCode::invalid_value, rule,
                 {.file = manifest.string(), .dataset = fmt::format("line {}", number), .parameter = {}, .value = {}});
  };
  const nlohmann::json object = nlohmann::json::parse(line, nullptr, false);
  if (!object.is_object()) throw broken("must be one JSON object");
  const auto text = [&](const char* key) {
    const auto place = object.find(key);
    if (place == object.end() || !place->is_string()) throw broken(fmt::format("must have a string \"{}\"", key));
    return place->get<std::string>();
  };
  const auto count = [&](const char* key) {
    const auto place = object.find(key);
    if (place == object.end() || !place->is_number_unsigned()) {
      throw broken(fmt::format("must have a whole number \"{}\"", key));
    }
    return place->get<std::uint64_t>();
  };
  Shard shard{text("name"), static_cast<std::int64_t>(count("sequences")), static_cast<std::int64_t>(count("tokens")),
              count("bytes"), text("checksum")};
  if (shard.name.empty() || shard.name == "." || shard.name == ".." || shard.name.find('/') != std::string::npos) {
    throw broken("\"name\" must be the name of a file in this directory");
  }
  return shard;
}

}  // namespace

Shard describe_shard(const std::filesystem::path& file) {
  const Reader reader(file);
  Shard shard;
  shard.name = file.filename().string();
  shard.sequences = static_cast<std::int64_t>(reader.sequences().size());
  for (const SequenceInfo& sequence : reader.sequences()) shard.tokens += sequence.length;
  shard.bytes = readable_file_size(file);
  shard.checksum = reader.checksum();
  return shard;
}

void append_to_manifest(const std::filesystem::path& directory, const Shard& shard) {
  const std::filesystem::path path = directory / manifest_name;
  const nlohmann::ordered_json object = {{"name", shard.name},
                                         {"sequences", shard.sequences},
                                         {"tokens", shard.tokens},
                                         {"bytes", shard.bytes},
                                         {"checksum", shard.checksum}};
  const std::string line = object.dump() + "\n";
  const FileDescriptor file(path, O_WRONLY | O_APPEND | O_CREAT, "write the manifest");
  // One write of a short line: a reader never sees half of it.
  if (::write(file.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size()) || ::fsync(file.get()) != 0) {
    throw system_error(errno, path, "write the manifest");
  }
  sync_to_disk(directory);
}

std::vector<Shard> read_manifest(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / manifest_name;
  std::error_code failure;
  if (!std::filesystem::exists(path, failure)) {
    if (failure) throw system_error(failure.value(), directory, "read the directory");
    throw Error(ErrorCode::missing_data,
                "a directory of traces must have a manifest.jsonl; name its trace files instead",
                {.file = directory.string()});
  }
  static_cast<void>(readable_file_size(path));
  std::ifstream stream(path);
  std::vector<Shard> shards;
  std::string line;
  for (std::size_t number = 1; std::getline(stream, line); ++number) {
    if (!line.empty()) shards.push_back(parse_line(line, path, number));
  }
  if (shards.empty()) throw Error(ErrorCode::missing_data, "must name at least one shard", {.file = path.string()});
  return shards;
}

void check_shard(const std::filesystem::path& directory, const Shard& shard) {
  const std::filesystem::path file = directory / shard.name;
  std::error_code failure;
  if (!std::filesystem::exists(file, failure)) {
    if (failure) throw system_error(failure.value(), file, "read the file");
    throw Error(ErrorCode::file_not_found, "named by the manifest and missing", {.file = file.string()});
  }
  const std::uint64_t bytes = readable_file_size(file);
  if (bytes != shard.bytes) {
    throw Error(ErrorCode::checksum_mismatch, fmt::format("altered: the manifest says {} bytes", shard.bytes),
                {.file = file.string(), .dataset = {}, .parameter = {}, .value = fmt::format("{} bytes", bytes)});
  }
  if (file_checksum(file) != shard.checksum) {
    throw Error(ErrorCode::checksum_mismatch, "altered: its checksum is not the one of the manifest",
                {.file = file.string()});
  }
}

std::vector<std::filesystem::path> trace_files(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) return {path};
  std::vector<std::filesystem::path> files;
  for (const Shard& shard : read_manifest(path)) {
    check_shard(path, shard);
    files.push_back(path / shard.name);
  }
  return files;
}

}  // namespace evictsim::traces

#include "traces/manifest.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

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
  Shard shard;
  shard.name = text("name");
  shard.model_record = object.value("model_record", nlohmann::json(false)) == true;
  if (!shard.model_record) {
    shard.sequences = static_cast<std::int64_t>(count("sequences"));
    shard.tokens = static_cast<std::int64_t>(count("tokens"));
  }
  shard.bytes = count("bytes");
  shard.checksum = text("checksum");
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
  shard.checksum = shard_checksum(file);
  return shard;
}

void append_to_manifest(const std::filesystem::path& directory, const Shard& shard) {
  const std::filesystem::path path = directory / manifest_name;
  nlohmann::ordered_json object = {{"name", shard.name}};
  if (shard.model_record) {
    object["model_record"] = true;
  } else {
    object["sequences"] = shard.sequences;
    object["tokens"] = shard.tokens;
  }
  object["bytes"] = shard.bytes;
  object["checksum"] = shard.checksum;
  const std::string line = object.dump() + "\n";
  const FileDescriptor file(path, O_WRONLY | O_APPEND | O_CREAT, "write the manifest");
  // One write of a short line: a reader never sees half of it.
  if (::write(file.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size()) || ::fsync(file.get()) != 0) {
    throw system_error(errno, path, "write the manifest");
  }
  sync_to_disk(directory);
}

Manifest read_manifest(const std::filesystem::path& directory) {
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
  Manifest manifest;
  std::string line;
  for (std::size_t number = 1; std::getline(stream, line); ++number) {
    if (line.empty()) continue;
    Shard shard = parse_line(line, path, number);
    (shard.model_record ? manifest.model_records : manifest.shards).push_back(std::move(shard));
  }
  return manifest;
}

Manifest read_shards(const std::filesystem::path& directory) {
  Manifest manifest = read_manifest(directory);
  if (!manifest.shards.empty()) return manifest;
  throw Error(ErrorCode::missing_data, "must name at least one shard", {.file = (directory / manifest_name).string()});
}

void check_shard_size(const std::filesystem::path& directory, const Shard& shard) {
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
  constexpr std::string_view signature = "\x89HDF\r\n\x1a\n";
  std::array<char, signature.size()> begin{};
  std::ifstream stream(file, std::ios::binary);
  if (!stream.read(begin.data(), begin.size()) || std::string_view(begin.data(), begin.size()) != signature) {
    throw Error(ErrorCode::checksum_mismatch, "altered: it does not begin as an HDF5 file", {.file = file.string()});
  }
}

void check_shard(const std::filesystem::path& directory, const Shard& shard) {
  check_shard_size(directory, shard);
  const std::filesystem::path file = directory / shard.name;
  if (!has_checksum(file, shard.checksum)) {
    throw Error(ErrorCode::checksum_mismatch, "altered: its checksum is not the one of the manifest",
                {.file = file.string()});
  }
}

std::vector<std::filesystem::path> trace_files(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) return {path};
  std::vector<std::filesystem::path> files;
  const Manifest manifest = read_shards(path);
  for (const Shard& record : manifest.model_records) check_shard(path, record);
  for (const Shard& shard : manifest.shards) {
    check_shard(path, shard);
    files.push_back(path / shard.name);
  }
  return files;
}

std::filesystem::path reject_shard(const std::filesystem::path& directory, const std::string& name) {
  const std::filesystem::path manifest = directory / manifest_name;
  std::filesystem::path rejected = directory / name;
  rejected += ".rejected";
  // First the file: a shard that is there and has no line is one that was sealed last, and would be entered again.
  std::error_code failure;
  std::filesystem::rename(directory / name, rejected, failure);
  if (failure) throw system_error(failure.value(), directory / name, "take the shard out of the directory");
  std::ifstream stream(manifest);
  std::string kept, line;
  for (std::size_t number = 1; std::getline(stream, line); ++number) {
    if (!line.empty() && parse_line(line, manifest, number).name != name) kept += line + "\n";
  }
  const std::filesystem::path temporary = directory / fmt::format(".{}.partial", manifest_name);
  {
    const FileDescriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC, "write the manifest");
    if (::write(file.get(), kept.data(), kept.size()) != static_cast<ssize_t>(kept.size()) ||
        ::fsync(file.get()) != 0) {
      throw system_error(errno, manifest, "write the manifest");
    }
  }
  std::filesystem::rename(temporary, manifest, failure);
  if (failure) throw system_error(failure.value(), manifest, "write the manifest");
  sync_to_disk(directory);
  return rejected;
}

}  // namespace evictsim::traces

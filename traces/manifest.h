#pragma once
/// \file
/// `manifest.jsonl`: the sealed shards of a directory, one JSON object per line (docs/trace-format.md, "Many files").

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace evictsim::traces {

inline constexpr const char* manifest_name = "manifest.jsonl";

/// One line of a manifest.
struct Shard {
  std::string name;  ///< file name inside the directory
  std::int64_t sequences = 0;
  std::int64_t tokens = 0;
  std::uint64_t bytes = 0;
  std::string checksum;  ///< of the file's bytes, see traces/checksum.h
};

/// What a manifest says about a sealed trace file. Throws Error when the file is no valid trace.
Shard describe_shard(const std::filesystem::path& file);
/// Appends a line to the manifest of the directory that holds the shard, and syncs it. Throws Error.
void append_to_manifest(const std::filesystem::path& directory, const Shard& shard);
/// All lines, in order. Throws Error: missing_data (no manifest), permission_denied, invalid_value (a line that is
/// none).
std::vector<Shard> read_manifest(const std::filesystem::path& directory);
/// Throws Error(file_not_found, checksum_mismatch) when the shard is missing or is not what the manifest says.
void check_shard(const std::filesystem::path& directory, const Shard& shard);

/// The trace files that a path given by a user names: itself, or the checked shards of a directory with a manifest.
std::vector<std::filesystem::path> trace_files(const std::filesystem::path& path);

}  // namespace evictsim::traces

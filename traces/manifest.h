#pragma once
/// \file
/// `manifest.jsonl`: the sealed shards of a directory, one JSON object per line (docs/trace-format.md, "Many files").

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace evictsim::traces {

inline constexpr const char* manifest_name = "manifest.jsonl";

/// One line of a manifest: a sealed shard, or a model record that shards link to.
struct Shard {
  std::string name;  ///< file name inside the directory
  std::int64_t sequences = 0;
  std::int64_t tokens = 0;
  std::uint64_t bytes = 0;
  std::string checksum;       ///< of the file's bytes, see traces/checksum.h
  bool model_record = false;  ///< then it has neither sequences nor tokens
};

/// What a manifest names, in order.
struct Manifest {
  std::vector<Shard> shards, model_records;
};

/// What a manifest says about a sealed trace file. Throws Error when the file is no valid trace.
Shard describe_shard(const std::filesystem::path& file);
/// Appends a line to the manifest of the directory that holds the shard, and syncs it. Throws Error.
void append_to_manifest(const std::filesystem::path& directory, const Shard& shard);
/// All lines. Throws Error: missing_data (no manifest), permission_denied, invalid_value (a line that is none).
Manifest read_manifest(const std::filesystem::path& directory);
/// The same of a directory that is to be read as traces: throws missing_data when it names no shard.
Manifest read_shards(const std::filesystem::path& directory);
/// Throws Error(file_not_found, checksum_mismatch) when the shard is missing or is not what the manifest says.
void check_shard(const std::filesystem::path& directory, const Shard& shard);
/// The same by name and size alone, and whether it begins as an HDF5 file does: what a shard that was synced before it
/// was renamed can have lost is seen so without reading it.
void check_shard_size(const std::filesystem::path& directory, const Shard& shard);

/// The trace files that a path given by a user names: itself, or the shards of a directory with a
/// manifest. Shards, and the model records beside them, are checked. Throws Error as the above.
std::vector<std::filesystem::path> trace_files(const std::filesystem::path& path);

/// Takes a shard out of a directory: renames it to its name + ".rejected", which is returned, and removes its line from
/// the manifest. Nobody else may write the manifest meanwhile. Throws Error.
std::filesystem::path reject_shard(const std::filesystem::path& directory, const std::string& name);

}  // namespace evictsim::traces

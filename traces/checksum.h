#pragma once
/// \file
/// Checksums of files: SHA-256 in result files, and the faster kind of manifests (docs/trace-format.md, "Many files").

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace evictsim::traces {

/// SHA-256 as 64 lower-case hexadecimal digits.
std::string sha256(std::span<const std::byte> bytes);
/// SHA-256 of the file's bytes. Throws Error(file_not_found, permission_denied, io_failure).
std::string file_checksum(const std::filesystem::path& path);

/// What a manifest says of a file's bytes; reads the file once. Throws as above.
std::string shard_checksum(const std::filesystem::path& path);
/// Whether the file has that checksum, of either kind: older manifests have SHA-256. Throws as above, and
/// Error(unsupported) for one of neither kind.
bool has_checksum(const std::filesystem::path& path, const std::string& checksum);

}  // namespace evictsim::traces

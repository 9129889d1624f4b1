#pragma once
/// \file
/// The checksum of files in manifests and result files: SHA-256, written as 64 lower-case hexadecimal digits.

#include <filesystem>
#include <string>

namespace evictsim::traces {

/// SHA-256 of the file's bytes. Throws Error(file_not_found, permission_denied, io_failure).
std::string file_checksum(const std::filesystem::path& path);

}  // namespace evictsim::traces

#pragma once
/// \file
/// Text files that appear whole or not at all.

#include <filesystem>
#include <string_view>

namespace evictsim::analysis {

/// Writes to a temporary name beside `path`, syncs and renames. Throws Error(permission_denied, file_not_found,
/// io_failure), and invalid_argument for a path that is taken by something else than a regular file.
void write_text_file(const std::filesystem::path& path, std::string_view text);

}  // namespace evictsim::analysis

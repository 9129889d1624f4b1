#pragma once
/// \file
/// The few POSIX calls that the standard library lacks, with errors as evictsim::Error. Internal to traces/.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>

#include "traces/error.h"

namespace evictsim::traces {

/// The error for an `errno` value of an operation on `path`.
Error system_error(int number, const std::filesystem::path& path, std::string_view action);

/// An open file descriptor.
class FileDescriptor {
 public:
  /// open(2); throws the error of `errno`.
  FileDescriptor(const std::filesystem::path& path, int flags, std::string_view action);
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor();
  [[nodiscard]] int get() const { return descriptor_; }

 private:
  int descriptor_;
};

/// Size of a regular file that this process may read. Throws file_not_found, permission_denied, not_a_trace
/// (something else than a regular file).
std::uint64_t readable_file_size(const std::filesystem::path& path);
/// Refuses a path that is taken by something else than a regular file (a directory, device, FIFO, symbolic link):
/// renaming a finished file to it would replace it. Throws Error(invalid_argument).
void require_replaceable(const std::filesystem::path& path);
/// fsync of a file or a directory.
void sync_to_disk(const std::filesystem::path& path);

}  // namespace evictsim::traces

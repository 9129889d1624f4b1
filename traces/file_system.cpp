#include "traces/file_system.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

namespace evictsim::traces {

Error system_error(int number, const std::filesystem::path& path, std::string_view action) {
  ErrorCode code = ErrorCode::io_failure;
  if (number == ENOENT || number == ENOTDIR) code = ErrorCode::file_not_found;
  if (number == EACCES || number == EPERM || number == EROFS) code = ErrorCode::permission_denied;
  return {
      code, "cannot " + std::string(action) + ": " + std::generic_category().message(number), {.file = path.string()}};
}

FileDescriptor::FileDescriptor(const std::filesystem::path& path, int flags, std::string_view action)
    : descriptor_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {
  if (descriptor_ < 0) throw system_error(errno, path, action);
}

FileDescriptor::~FileDescriptor() { ::close(descriptor_); }

std::uint64_t readable_file_size(const std::filesystem::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) throw system_error(errno, path, "read the file");
  if (!S_ISREG(status.st_mode)) {
    throw Error(ErrorCode::not_a_trace, "not a regular file: expected one, not a folder or a device",
                {.file = path.string()});
  }
  const FileDescriptor file(path, O_RDONLY, "read the file");
  return static_cast<std::uint64_t>(status.st_size);
}

void require_replaceable(const std::filesystem::path& path) {
  // What cannot be looked at cannot be created beside either, and creating says why.
  std::error_code ignored;
  const std::filesystem::file_status status = std::filesystem::symlink_status(path, ignored);
  if (!std::filesystem::status_known(status) || !std::filesystem::exists(status)) return;
  if (std::filesystem::is_regular_file(status)) return;
  const char* kind = std::filesystem::is_directory(status) ? "a directory"
                     : std::filesystem::is_symlink(status) ? "a symbolic link"
                                                           : "a special file";
  throw Error(ErrorCode::invalid_argument, "is not a regular file and is not replaced; name a file",
              {.file = path.string(), .dataset = {}, .parameter = {}, .value = kind});
}

void sync_to_disk(const std::filesystem::path& path) {
  const FileDescriptor file(path, O_RDONLY, "open for syncing");
  // Some file systems cannot sync a directory and say EINVAL; the rename itself has been done then.
  if (::fsync(file.get()) != 0 && errno != EINVAL) throw system_error(errno, path, "sync to disk");
}

}  // namespace evictsim::traces

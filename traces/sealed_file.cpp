#include "traces/sealed_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <utility>

#include "traces/file_system.h"
#include "traces/hdf5_driver.h"

namespace evictsim::traces {
namespace {

std::filesystem::path temporary_beside(const std::filesystem::path& path) {
  static std::atomic<unsigned> counter{0};
  const std::string name = fmt::format(".{}.{}-{}.partial", path.filename().string(), ::getpid(), counter++);
  return path.parent_path() / name;
}

std::filesystem::path directory_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

}  // namespace

SealedFile::SealedFile(std::filesystem::path path, std::size_t alignment) : path_(std::move(path)) {
  require_replaceable(path_);
  const std::filesystem::path temporary = temporary_beside(path_);
  // Created here first, because the operating system says why it refuses and HDF5 does not.
  try {
    const FileDescriptor file(temporary, O_WRONLY | O_CREAT | O_EXCL, "create the trace");
  } catch (const Error& error) {
    throw Error(error.code(), error.message(), {.file = path_.string()});
  }
  temporary_ = temporary;
  const hdf5::Guard guard;
  root_ = hdf5::Node::create_file(temporary_.string(), path_.string(), alignment);
}

SealedFile::~SealedFile() {
  root_.close();
  std::error_code ignored;
  if (!sealed_) std::filesystem::remove(temporary_, ignored);
}

void SealedFile::keep_checksum() {
  const hdf5::Guard guard;
  ledger_ = hdf5::keep_checksums(root_);
}

void SealedFile::seal() {
  complete();
  put_in_place();
}

void SealedFile::seal_as(const std::function<std::string(const std::string& checksum)>& name) {
  complete();
  path_.replace_filename(name(checksum_));
  require_replaceable(path_);
  put_in_place();
}

void SealedFile::complete() {
  {
    const hdf5::Guard guard;
    if (H5Fflush(root_.id(), H5F_SCOPE_LOCAL) < 0) {
      throw Error(ErrorCode::io_failure, "cannot be written to the end: is the disk full?", {.file = path_.string()});
    }
    root_.close();
  }
  if (ledger_) checksum_ = ledger_->checksum(temporary_);
  sync_to_disk(temporary_);
}

void SealedFile::put_in_place() {
  std::error_code failure;
  std::filesystem::rename(temporary_, path_, failure);
  if (failure) throw system_error(failure.value(), path_, "put the sealed trace in place");
  sealed_ = true;
  sync_to_disk(directory_of(path_));
}

}  // namespace evictsim::traces

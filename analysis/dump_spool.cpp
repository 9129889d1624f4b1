#include "analysis/dump_spool.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace evictsim::analysis {
namespace {

std::filesystem::path scratch_name(const std::filesystem::path& beside) {
  return beside.string() + ".spool." + std::to_string(::getpid());
}

}  // namespace

DumpSpool::DumpSpool(const std::filesystem::path& beside)
    : path_(beside), file_(scratch_name(beside), O_RDWR | O_CREAT | O_TRUNC, "create a scratch file") {
  ::unlink(scratch_name(beside).c_str());
}

void DumpSpool::append_bytes(const void* bytes, std::size_t count) {
  const char* next = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t written = ::pwrite(file_.get(), next, count, static_cast<off_t>(size_));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0)
      throw traces::system_error(written < 0 ? errno : ENOSPC, path_, "write the scratch file beside it");
    next += written;
    count -= static_cast<std::size_t>(written);
    size_ += static_cast<std::uint64_t>(written);
  }
}

void DumpSpool::read_bytes(std::uint64_t offset, void* bytes, std::size_t count) const {
  char* next = static_cast<char*>(bytes);
  while (count > 0) {
    const ssize_t got = ::pread(file_.get(), next, count, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw traces::system_error(got < 0 ? errno : EIO, path_, "read the scratch file beside it");
    next += got;
    count -= static_cast<std::size_t>(got);
    offset += static_cast<std::uint64_t>(got);
  }
}

void DumpSpool::clear() {
  size_ = 0;
  if (::ftruncate(file_.get(), 0) != 0) throw traces::system_error(errno, path_, "empty the scratch file beside it");
}

}  // namespace evictsim::analysis

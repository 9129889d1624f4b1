#include "traces/hdf5_driver.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#if __has_include(<H5FDdevelop.h>)
#include <H5FDdevelop.h>
#endif

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <limits>
#include <map>
#include <new>
#include <utility>
#include <vector>

namespace evictsim::traces::hdf5 {

/// HDF5 sees the first member, which makes this a struct of C.
struct OutputFile {
  H5FD_t common{};
  int descriptor = -1;
  haddr_t allocated = 0, end = 0;
  std::atomic<bool> failed{false};
  std::map<haddr_t, std::vector<char>> kept;  ///< writes behind the failure
  std::shared_ptr<BlockLedger> ledger;        ///< null: no checksums
  std::atomic<std::size_t> unstarted{0};      ///< bytes that the disk may not have been told of

  /// Puts bytes into the file, from any thread.
  bool put(haddr_t address, std::span<const std::byte> bytes) {
    for (std::size_t done = 0; done < bytes.size();) {
      const ssize_t count =
          ::pwrite(descriptor, bytes.data() + done, bytes.size() - done, static_cast<off_t>(address + done));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) {
        failed = true;
        return false;
      }
      done += static_cast<std::size_t>(count);
    }
    start_writeback(bytes.size());
    try {
      if (ledger) ledger->wrote(address, bytes);
    } catch (const std::exception&) {
      // Blocks without a tag are read when the file is complete, and what is wrong shows then.
    }
    return true;
  }

  /// The disk works while the next chunks are made; otherwise all of it would wait for the fsync at the end. A hint:
  /// what becomes of it does not matter.
  void start_writeback([[maybe_unused]] std::size_t size) {
#ifdef SYNC_FILE_RANGE_WRITE
    constexpr std::size_t batch = std::size_t{8} << 20;
    if (unstarted.fetch_add(size) + size < batch) return;
    unstarted = 0;
    static_cast<void>(::sync_file_range(descriptor, 0, 0, SYNC_FILE_RANGE_WRITE));
#endif
  }
};

namespace {

thread_local DeferredWrite* deferred_write = nullptr;

OutputFile& of(H5FD_t* file) { return *reinterpret_cast<OutputFile*>(file); }
const OutputFile& of(const H5FD_t* file) { return *reinterpret_cast<const OutputFile*>(file); }

H5FD_t* open_file(const char* name, unsigned flags, hid_t, haddr_t) {
  int mode = O_CLOEXEC | ((flags & H5F_ACC_RDWR) != 0 ? O_RDWR : O_RDONLY);
  if ((flags & H5F_ACC_TRUNC) != 0) mode |= O_TRUNC;
  if ((flags & H5F_ACC_CREAT) != 0) mode |= O_CREAT;
  if ((flags & H5F_ACC_EXCL) != 0) mode |= O_EXCL;
  const int descriptor = ::open(name, mode, 0666);
  if (descriptor < 0) return nullptr;
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) {
    ::close(descriptor);
    return nullptr;
  }
  auto file = std::make_unique<OutputFile>();
  file->descriptor = descriptor;
  file->end = static_cast<haddr_t>(status.st_size);
  return &file.release()->common;
}

herr_t close_file(H5FD_t* file) {
  const std::unique_ptr<OutputFile> closing(&of(file));
  ::close(closing->descriptor);
  return 0;
}

int compare_files(const H5FD_t* first, const H5FD_t* second) {
  const int a = of(first).descriptor, b = of(second).descriptor;
  return a < b ? -1 : a > b ? 1 : 0;
}

herr_t query(const H5FD_t*, unsigned long* flags) {
  *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
           H5FD_FEAT_AGGREGATE_SMALLDATA | H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
  return 0;
}

haddr_t get_allocated(const H5FD_t* file, H5FD_mem_t) { return of(file).allocated; }
herr_t set_allocated(H5FD_t* file, H5FD_mem_t, haddr_t address) {
  of(file).allocated = address;
  return 0;
}
haddr_t get_end(const H5FD_t* file, H5FD_mem_t) { return of(file).end; }

herr_t get_file(H5FD_t* file, hid_t, void** handle) {
  *handle = &of(file);
  return 0;
}

herr_t read_file(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t address, std::size_t size, void* buffer) {
  const OutputFile& source = of(file);
  auto* target = static_cast<char*>(buffer);
  for (std::size_t done = 0; done < size;) {
    const ssize_t count = ::pread(source.descriptor, target + done, size - done, static_cast<off_t>(address + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return -1;
    if (count == 0) {  // beyond the end lie zeros
      std::memset(target + done, 0, size - done);
      break;
    }
    done += static_cast<std::size_t>(count);
  }
  for (const auto& [first, bytes] : source.kept) {
    const haddr_t begin = std::max(first, address), end = std::min(first + bytes.size(), address + size);
    if (begin < end) std::memcpy(target + (begin - address), bytes.data() + (begin - first), end - begin);
  }
  return 0;
}

bool write_bytes(OutputFile& target, haddr_t address, std::span<const std::byte> bytes) {
  if (target.failed) {
    // A later write to an address replaces the earlier one: metadata is written in whole pieces.
    const auto* source = reinterpret_cast<const char*>(bytes.data());
    target.kept[address].assign(source, source + bytes.size());
    return true;
  }
  if (target.ledger) target.ledger->forget(address, bytes.size());
  if (!DeferredWrite::take(target, address, bytes) && !target.put(address, bytes)) return false;
  target.end = std::max(target.end, address + bytes.size());
  return true;
}

herr_t write_file(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t address, std::size_t size, const void* buffer) {
  try {
    return write_bytes(of(file), address, {static_cast<const std::byte*>(buffer), size}) ? 0 : -1;
  } catch (const std::bad_alloc&) {  // nothing may be thrown through HDF5
    of(file).failed = true;
    return -1;
  }
}

herr_t flush_file(H5FD_t* file, hid_t, hbool_t closing) { return of(file).failed && !closing ? -1 : 0; }

herr_t truncate_file(H5FD_t* file, hid_t, hbool_t) {
  OutputFile& target = of(file);
  if (target.failed || target.end == target.allocated) return 0;
  if (::ftruncate(target.descriptor, static_cast<off_t>(target.allocated)) != 0) {
    target.failed = true;
    return -1;
  }
  target.end = target.allocated;
  return 0;
}

const H5FD_class_t driver_class = {
#ifdef H5FD_CLASS_VERSION
    .version = H5FD_CLASS_VERSION,
    .value = static_cast<H5FD_class_value_t>(300),  // any that HDF5 does not use itself
#endif
    .name = "evictsim output",
    .maxaddr = static_cast<haddr_t>(std::numeric_limits<off_t>::max()),
    .fc_degree = H5F_CLOSE_STRONG,
    .open = open_file,
    .close = close_file,
    .cmp = compare_files,
    .query = query,
    .get_eoa = get_allocated,
    .set_eoa = set_allocated,
    .get_eof = get_end,
    .get_handle = get_file,
    .read = read_file,
    .write = write_file,
    .flush = flush_file,
    .truncate = truncate_file,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

}  // namespace

hid_t output_driver() {
  static const hid_t driver = H5FDregister(&driver_class);
  return driver;
}

std::shared_ptr<BlockLedger> keep_checksums(const Node& file) {
  void* handle = nullptr;
  if (H5Fget_vfd_handle(file.id(), H5P_DEFAULT, &handle) < 0) {
    throw file.error(ErrorCode::io_failure, "is no file of the driver that keeps checksums");
  }
  auto& output = *static_cast<OutputFile*>(handle);
  if (!output.ledger) output.ledger = std::make_shared<BlockLedger>();
  return output.ledger;
}

DeferredWrite::DeferredWrite(std::span<const std::byte> bytes) : bytes_(bytes) { deferred_write = this; }

DeferredWrite::~DeferredWrite() { deferred_write = nullptr; }

bool DeferredWrite::take(OutputFile& file, std::uint64_t address, std::span<const std::byte> bytes) {
  DeferredWrite* const wanted = deferred_write;
  if (wanted == nullptr || wanted->file_ != nullptr || bytes.data() != wanted->bytes_.data() ||
      bytes.size() != wanted->bytes_.size()) {
    return false;
  }
  wanted->file_ = &file;
  wanted->address_ = address;
  return true;
}

bool DeferredWrite::perform() { return file_ == nullptr || file_->put(address_, bytes_); }

}  // namespace evictsim::traces::hdf5

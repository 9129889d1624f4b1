#pragma once
/// \file
/// How HDF5 reaches the files that we write. Its own file layer lets a failed write (a full disk) turn into a crash
/// when the process ends, since a file that cannot be flushed cannot be closed; and it writes every byte under HDF5's
/// one lock. Internal to traces/.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "traces/block_checksum.h"
#include "traces/hdf5_handle.h"

namespace evictsim::traces::hdf5 {

struct OutputFile;

/// A driver that writes to a POSIX file until a write fails. That call and every later H5Fflush fail, so the loss
/// cannot be overlooked; but what HDF5 still wants to write goes to memory, so that the file, which is of no use any
/// more, can be closed. Registered once.
hid_t output_driver();

/// Keeps the checksums of what is written to an open file of that driver from now on. The ledger may outlive the file.
/// A Guard must be held.
std::shared_ptr<BlockLedger> keep_checksums(const Node& file);

/// While it lives, this thread's next write of exactly `bytes`, by the buffer that HDF5 was given, only gets its place
/// in the file; perform() writes them, and needs no Guard then. The file must stay open in between.
class DeferredWrite {
 public:
  explicit DeferredWrite(std::span<const std::byte> bytes);
  DeferredWrite(const DeferredWrite&) = delete;
  DeferredWrite& operator=(const DeferredWrite&) = delete;
  ~DeferredWrite();
  /// False when it fails: the file is of no use any more. Does nothing when HDF5 has written the bytes itself.
  [[nodiscard]] bool perform();

  /// The driver's side: takes the write over when it is the one.
  static bool take(OutputFile& file, std::uint64_t address, std::span<const std::byte> bytes);

 private:
  std::span<const std::byte> bytes_;
  OutputFile* file_ = nullptr;
  std::uint64_t address_ = 0;
};

}  // namespace evictsim::traces::hdf5

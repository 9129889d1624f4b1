#pragma once
/// \file
/// The directory of a capture: who may write into it, what an earlier capture left there, and the next shard's name.

#include <filesystem>

#include "traces/file_system.h"

namespace evictsim::traces::capture {

/// One process at a time captures into a directory. Constructing it creates the directory when missing and puts in
/// order what a killed capture left behind: unsealed files are removed, a line of the manifest that was not written to
/// its end is cut off, and a shard that was sealed but not yet in the manifest is checked and entered.
class CaptureDirectory {
 public:
  /// Throws Error: file_not_found (no parent), permission_denied, io_failure, invalid_argument (no directory, or a
  /// capture is going on in it), not_a_trace and the like when a shard of the manifest is missing or not whole.
  explicit CaptureDirectory(std::filesystem::path path);

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  /// A shard name that no file has and no other call gave.
  [[nodiscard]] std::filesystem::path next_shard();

 private:
  void remove_unsealed() const;
  void repair_manifest() const;
  void adopt_shards();

  std::filesystem::path path_;
  FileDescriptor directory_;  // holds the lock
  int next_ = 0;
};

}  // namespace evictsim::traces::capture

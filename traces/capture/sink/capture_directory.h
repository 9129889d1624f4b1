#pragma once
/// \file
/// Where a capture writes: a directory, who may write into it, what an earlier capture left there, and the next shard's
/// name; or a single file.

#include <filesystem>
#include <optional>

#include "traces/capture/sink/capture_options.h"
#include "traces/file_system.h"

namespace evictsim::traces::capture {

/// One process at a time captures into a directory. Constructing it creates the directory when missing and puts in
/// order what a killed capture left behind: unsealed files are removed, a line of the manifest that was not written to
/// its end is cut off, and what was sealed but not yet in the manifest is checked and entered.
class CaptureDirectory {
 public:
  /// Throws Error: file_not_found (no parent), permission_denied, io_failure, invalid_argument (no directory, or a
  /// capture is going on in it), not_a_trace and the like when what the manifest names is missing or not whole: by its
  /// size, or with `options.check_contents` by its checksum.
  ///
  /// With `options.single_file`, `path` is not the directory but the only shard; nothing is created, locked or put in
  /// order.
  CaptureDirectory(std::filesystem::path path, const CaptureOptions& options);

  /// What a hidden file with the weights is named after.
  [[nodiscard]] std::filesystem::path weights() const { return single_file_ ? path_ : path_ / "weights"; }
  /// A shard name that no file has and no other call gave.
  [[nodiscard]] std::filesystem::path next_shard();

 private:
  void remove_unsealed() const;
  void repair_manifest() const;
  void adopt_sealed(bool check_contents);

  std::filesystem::path path_;
  bool single_file_;
  std::optional<FileDescriptor> directory_;  // holds the lock
  int next_ = 0;
};

}  // namespace evictsim::traces::capture

#pragma once
/// \file
/// A new HDF5 file that appears under its name only when it is complete. Internal to traces/.

#include <filesystem>

#include "traces/hdf5_handle.h"

namespace evictsim::traces {

/// Writes to a hidden temporary name in the same directory. Destroying it before seal() removes the temporary file.
class SealedFile {
 public:
  /// Throws Error: permission_denied, file_not_found, io_failure, invalid_argument (the path is taken by something else
  /// than a regular file).
  explicit SealedFile(std::filesystem::path path);
  SealedFile(const SealedFile&) = delete;
  SealedFile& operator=(const SealedFile&) = delete;
  ~SealedFile();

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] const hdf5::Node& root() const { return root_; }
  [[nodiscard]] bool sealed() const { return sealed_; }
  /// Flushes, closes, syncs and renames. Every other object of the file must have been closed.
  void seal();

 private:
  std::filesystem::path path_, temporary_;
  hdf5::Node root_;
  bool sealed_ = false;
};

}  // namespace evictsim::traces

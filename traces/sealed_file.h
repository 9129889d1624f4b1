#pragma once
/// \file
/// A new HDF5 file that appears under its name only when it is complete. Internal to traces/.

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "traces/block_checksum.h"
#include "traces/hdf5_handle.h"

namespace evictsim::traces {

/// Writes to a hidden temporary name in the same directory. Destroying it before seal() removes the temporary file.
class SealedFile {
 public:
  /// Throws Error: permission_denied, file_not_found, io_failure, invalid_argument (the path is taken by something else
  /// than a regular file). `alignment`: see hdf5::Node::create_file.
  explicit SealedFile(std::filesystem::path path, std::size_t alignment = 1);
  SealedFile(const SealedFile&) = delete;
  SealedFile& operator=(const SealedFile&) = delete;
  ~SealedFile();

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] const hdf5::Node& root() const { return root_; }
  [[nodiscard]] bool sealed() const { return sealed_; }
  /// Flushes, closes, syncs and renames. Every other object of the file must have been closed.
  void seal();
  /// The same under a name of that directory which is made of the checksum; needs keep_checksum().
  void seal_as(const std::function<std::string(const std::string& checksum)>& name);
  /// Takes the checksum of what is written from now on from memory, as far as it can.
  void keep_checksum();
  /// Of a sealed file with keep_checksum(): what shard_checksum() says.
  [[nodiscard]] const std::string& checksum() const { return checksum_; }

 private:
  void complete();
  void put_in_place();

  std::filesystem::path path_, temporary_;
  hdf5::Node root_;
  std::shared_ptr<BlockLedger> ledger_;
  std::string checksum_;
  bool sealed_ = false;
};

}  // namespace evictsim::traces

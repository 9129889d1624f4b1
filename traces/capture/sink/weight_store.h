#pragma once
/// \file
/// The weights of a capture's model, which are handed over once and belong to every shard.

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "traces/header.h"
#include "traces/reader.h"
#include "traces/sealed_file.h"

namespace evictsim::traces::capture {

/// Gathers weights in a hidden file. Shards of a directory then share one model record (docs/trace-format.md, "Many
/// files"); a trace that is one file alone has them in itself, and the hidden file goes. One thread at a time.
class WeightStore {
 public:
  /// `path`: what the hidden file is named after. `shared`: for shards of the directory that it lies in.
  WeightStore(std::filesystem::path path, Header header, TensorType type, bool shared);
  /// Throws Error: wrong_shape, invalid_value, io_failure; invalid_argument when that weight is there already.
  void add(int layer, LayerWeight weight, std::span<const float> values);
  void add(ModelTensor tensor, std::span<const float> values);

  /// No weight follows. Seals the model record of a directory and enters it into the manifest; once, and only when
  /// there are weights. Throws Error(io_failure, permission_denied, file_not_found).
  void complete();
  /// Gives a shard's group /model all weights. A Guard must be held.
  void add_to(const hdf5::Node& root, const hdf5::Node& model) const;

 private:
  void add(const hdf5::Node& group, const char* name, const std::vector<std::size_t>& shape,
           std::span<const float> values);

  Header header_;
  TensorType type_;
  bool shared_;
  SealedFile file_;
  bool complete_ = false;
  std::vector<std::string> names_;  ///< at the root of the file
};

}  // namespace evictsim::traces::capture

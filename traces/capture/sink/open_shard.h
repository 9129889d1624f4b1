#pragma once
/// \file
/// One shard while it is written: several sequences at a time, chunk by chunk, from any thread. A shard is a trace file
/// (docs/trace-format.md) that appears under its name, and then in the manifest, when it is complete.

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "traces/chunk_codec.h"
#include "traces/header.h"
#include "traces/reader.h"
#include "traces/sealed_file.h"
#include "traces/writer.h"

namespace evictsim::traces::capture {

/// Tensors of a layer of a sequence, and their names in the format.
enum class LayerTensor { key, value, query, hidden };
inline constexpr std::size_t layer_tensor_count = 4;
const char* to_string(LayerTensor tensor) noexcept;
/// Extents of one row.
std::vector<std::size_t> row_shape(LayerTensor tensor, const Header& header);

/// Weights are handed over once and belong into every shard: they wait in a hidden file of the directory.
class WeightStore {
 public:
  WeightStore(const std::filesystem::path& directory, Header header, TensorType type);
  /// Throws Error: wrong_shape, invalid_value, io_failure; invalid_argument when that weight is there already.
  void add(int layer, LayerWeight weight, std::span<const float> values);
  void add(ModelTensor tensor, std::span<const float> values);
  /// Copies everything into the group /model of a shard.
  void copy_into(const hdf5::Node& model) const;

 private:
  void add(const hdf5::Node& group, const char* name, const std::vector<std::size_t>& shape,
           std::span<const float> values);
  Header header_;
  TensorType type_;
  SealedFile file_;  // never sealed: it goes when the capture ends
};

/// What is known of a sequence at its end.
struct SequenceEnd {
  SequenceInfo info;
  std::vector<std::int32_t> token_ids;
  std::map<Channel, std::vector<float>> channels;     ///< in the format's shapes
  std::vector<std::vector<std::int32_t>> query_rows;  ///< per captured layer
};

/// What a capture lost, for the shard that says so.
struct Losses {
  std::int64_t rows = 0, requests = 0;
  std::string last;  ///< why rows were last lost
};

class OpenShard {
 public:
  /// Throws Error when the file cannot be created.
  OpenShard(std::filesystem::path path, Header header, const WriterOptions& options, const WeightStore* weights);

  /// Appends the dataset's chunk that starts at row `first` and ends before row `end`; groups and datasets are made
  /// when first needed. Returns the bytes written. `sequence` is the sequence's number in this shard.
  std::uint64_t write_chunk(int sequence, std::size_t place, LayerTensor tensor, std::size_t first, std::size_t end,
                            const EncodedChunk& chunk);
  /// Completes a sequence of which every chunk has been written; rows beyond its end are cut off.
  void finish_sequence(int sequence, const SequenceEnd& end);
  void discard_sequence(int sequence);
  /// Writes what was lost, seals the file and adds it to the manifest. False, and no file, when it has no sequence.
  bool seal(const Losses& losses);

  [[nodiscard]] std::size_t chunk_rows(LayerTensor tensor) const;
  [[nodiscard]] const std::filesystem::path& path() const { return file_.path(); }

 private:
  struct Sequence {
    hdf5::Node group;
    std::vector<hdf5::Node> layers;    ///< by captured layer
    std::vector<hdf5::Node> datasets;  ///< by captured layer and tensor
  };
  Sequence& open_sequence(int number);
  hdf5::Node& dataset(Sequence& sequence, std::size_t place, LayerTensor tensor) const;

  Header header_;
  WriterOptions options_;
  SealedFile file_;
  hdf5::Node model_, sequences_;
  std::map<int, Sequence> open_;
  std::int64_t finished_ = 0, tokens_ = 0;
};

}  // namespace evictsim::traces::capture

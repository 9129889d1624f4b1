#pragma once
/// \file
/// One shard while it is written: several sequences at a time, chunk by chunk, from any thread. A shard is a trace file
/// (docs/trace-format.md) that appears under its name, and then in the manifest, when it is complete.

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "traces/capture/row_batch.h"
#include "traces/capture/sink/weight_store.h"
#include "traces/chunk_codec.h"
#include "traces/header.h"
#include "traces/packets.h"
#include "traces/reader.h"
#include "traces/sealed_file.h"
#include "traces/writer.h"

namespace evictsim::traces::capture {

/// Tensors of a layer of a sequence, and their names in the format.
enum class LayerTensor { key, value, query, hidden };
inline constexpr std::size_t layer_tensor_count = 4;
const char* to_string(LayerTensor tensor) noexcept;
/// Where rows of a sequence go.
struct DatasetPlace {
  Pass pass = Pass::sequence;
  std::size_t layer = 0;  ///< its place among the captured ones
  LayerTensor tensor{};
};
/// The documents that a pass beside a sequence reads, or stands behind. Not for the second pass.
inline PacketSet set_of(Pass pass) {
  return pass == Pass::wrapped || pass == Pass::behind_wrapped ? PacketSet::wrapped : PacketSet::bare;
}
inline bool is_behind(Pass pass) { return pass == Pass::behind_wrapped || pass == Pass::behind_bare; }

/// Extents of one row.
std::vector<std::size_t> row_shape(LayerTensor tensor, const Header& header);

/// What is known of a sequence at its end.
struct SequenceEnd {
  SequenceInfo info;
  std::vector<std::int32_t> token_ids;
  std::map<Channel, std::vector<float>> channels;     ///< in the format's shapes
  std::vector<std::vector<std::int32_t>> query_rows;  ///< per captured layer
  /// What was recorded beside the sequence as a whole; what is absent, or has no rows, leaves nothing behind.
  std::optional<SecondPass> second_pass;
  std::array<std::optional<Packets>, packet_sets.size()> packets;  ///< by PacketSet
  std::array<std::size_t, pass_count> pass_rows{};
  std::int64_t lost_passes = 0;
};

/// What a capture lost, for the shard that says so.
struct Losses {
  std::int64_t rows = 0, requests = 0, passes = 0;
  std::string last;  ///< why rows were last lost
};

class OpenShard {
 public:
  /// Throws Error when the file cannot be created.
  OpenShard(std::filesystem::path path, Header header, const WriterOptions& options, WeightStore* weights);

  /// Appends the dataset's chunk that starts at row `first` and ends before row `end`; groups and datasets are made
  /// when first needed. Returns the bytes written. `sequence` is the sequence's number in this shard.
  std::uint64_t write_chunk(int sequence, const DatasetPlace& place, std::size_t first, std::size_t end,
                            const EncodedChunk& chunk);
  /// Completes a sequence of which every chunk has been written; rows beyond its end are cut off.
  void finish_sequence(int sequence, const SequenceEnd& end);
  void discard_sequence(int sequence);
  /// Writes what was lost, seals the file and, when `listed`, adds it to the manifest. False, and no file, when it has
  /// no sequence.
  bool seal(const Losses& losses, bool listed);

  [[nodiscard]] const std::filesystem::path& path() const { return file_.path(); }

 private:
  /// One pass of a sequence.
  struct Rows {
    std::vector<hdf5::Node> layers;    ///< by captured layer
    std::vector<hdf5::Node> datasets;  ///< by captured layer and tensor
  };
  struct Sequence {
    hdf5::Node group;
    std::array<Rows, pass_count> passes;
  };
  Sequence& open_sequence(int number);
  hdf5::Node& dataset(Sequence& sequence, const DatasetPlace& place) const;
  void finish_passes(Sequence& sequence, const SequenceEnd& end) const;

  Header header_;
  WriterOptions options_;
  SealedFile file_;
  hdf5::Node model_, sequences_;
  std::map<int, Sequence> open_;
  std::int64_t finished_ = 0, tokens_ = 0;
};

}  // namespace evictsim::traces::capture

#pragma once
/// \file
/// Encodes chunks as HDF5's shuffle and deflate filters would, outside HDF5 and its lock. Internal to traces/.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "traces/hdf5_handle.h"

struct z_stream_s;

namespace evictsim::traces {

/// A chunk as it lies in the file.
struct EncodedChunk {
  std::span<const std::byte> bytes;
  std::uint32_t skipped_filters = 0;  ///< bit i: filter i of the dataset was not applied (H5Dwrite_chunk's mask)
};

/// Reuses its memory between chunks; one per thread.
class ChunkEncoder {
 public:
  ChunkEncoder();
  ChunkEncoder(const ChunkEncoder&) = delete;
  ChunkEncoder& operator=(const ChunkEncoder&) = delete;
  ~ChunkEncoder();

  /// Shuffle, then deflate at level 1; the second is skipped when it does not shrink the chunk. `chunk` is whole
  /// elements of `element` bytes. The result is valid until the next call.
  EncodedChunk encode(std::span<const std::byte> chunk, std::size_t element);

 private:
  std::vector<std::byte> shuffled_, deflated_;
  std::unique_ptr<z_stream_s> stream_;
};

/// Writes one whole chunk that starts at row `first` of a chunked dataset, growing the dataset to `rows` rows when it
/// has fewer. A Guard must be held.
void write_chunk(const hdf5::Node& dataset, std::size_t first, std::size_t rows, const EncodedChunk& chunk);
/// What write_chunk() throws when the disk refuses the bytes.
Error chunk_not_written(const hdf5::Node& dataset);

}  // namespace evictsim::traces

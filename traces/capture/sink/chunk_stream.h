#pragma once
/// \file
/// Rows of one dataset, gathered until they fill chunks.

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "traces/capture/sink/open_shard.h"

namespace evictsim::traces::capture {

/// The memory of a whole chunk, not initialised: nothing is written into it twice.
class ChunkBytes {
 public:
  ChunkBytes() = default;
  explicit ChunkBytes(std::size_t size) : memory_(std::make_unique_for_overwrite<std::byte[]>(size)), size_(size) {}
  ChunkBytes(ChunkBytes&& other) noexcept : memory_(std::move(other.memory_)), size_(std::exchange(other.size_, 0)) {}
  ChunkBytes& operator=(ChunkBytes&& other) noexcept {
    memory_ = std::move(other.memory_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }
  [[nodiscard]] std::byte* data() const { return memory_.get(); }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::span<const std::byte> all() const { return {memory_.get(), size_}; }

 private:
  std::unique_ptr<std::byte[]> memory_;
  std::size_t size_ = 0;
};

/// A full chunk, or the last one of a dataset: rows [first, first + rows).
struct Chunk {
  DatasetPlace place;
  std::size_t first = 0, rows = 0;
  ChunkBytes bytes;  ///< of chunk_rows rows; what lies behind `rows` is zero
};
/// Takes a chunk, or leaves it as it is and returns false: there is no room for it now.
using TakeChunk = std::function<bool(Chunk&)>;

/// Not thread-safe.
class ChunkStream {
 public:
  ChunkStream(DatasetPlace place, const Header& header, TensorType type);

  /// Bytes of a chunk, which is what can be pending at a time.
  static std::size_t chunk_bytes(LayerTensor tensor, const Header& header, TensorType type);

  enum class Outcome { stored, no_room, bad_value };
  /// Stores `rows` rows of `type`; what has been stored when the outcome is another one stays.
  Outcome append(const std::byte* bytes, TensorType type, std::size_t rows, const TakeChunk& take,
                 std::vector<float>& scratch);
  [[nodiscard]] std::size_t rows() const { return submitted_ + pending_rows_; }
  /// Hands the last chunk to `take`, which may not refuse it, cut to `rows` rows in all. Nothing can be appended then.
  void finish(std::size_t rows, const TakeChunk& take);

  [[nodiscard]] const DatasetPlace& place() const { return place_; }

 private:
  bool submit(const TakeChunk& take);
  Outcome append_rows(const std::byte* bytes, TensorType type, std::size_t rows, std::vector<float>& scratch);

  DatasetPlace place_;
  TensorType type_;
  std::size_t row_elements_, row_bytes_, chunk_rows_;
  ChunkBytes pending_;
  std::size_t pending_rows_ = 0;
  std::size_t submitted_ = 0;  ///< rows given away
};

/// Why a value could not be stored.
std::string bad_value_text(LayerTensor tensor, int layer, TensorType type);

}  // namespace evictsim::traces::capture

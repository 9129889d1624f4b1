#include "traces/capture/sink/chunk_stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "traces/capture/sink/tensor_rows.h"
#include "traces/row_stream.h"
#include "traces/trace_output.h"

namespace evictsim::traces::capture {

ChunkStream::ChunkStream(DatasetPlace place, const Header& header, TensorType type)
    : place_(place),
      type_(type),
      row_elements_(element_count(row_shape(place.tensor, header))),
      row_bytes_(row_elements_ * hdf5::element_size(type)),
      chunk_rows_(rows_per_chunk(row_bytes_)) {}

std::size_t ChunkStream::chunk_bytes(LayerTensor tensor, const Header& header, TensorType type) {
  const std::size_t row = element_count(row_shape(tensor, header)) * hdf5::element_size(type);
  return rows_per_chunk(row) * row;
}

ChunkStream::Outcome ChunkStream::append(const std::byte* bytes, TensorType type, std::size_t rows,
                                         const TakeChunk& take, std::vector<float>& scratch) {
  while (rows > 0) {
    if (pending_rows_ == chunk_rows_ && !submit(take)) return Outcome::no_room;
    const std::size_t taken = std::min(chunk_rows_ - pending_rows_, rows);
    if (append_rows(bytes, type, taken, scratch) != Outcome::stored) return Outcome::bad_value;
    if (pending_rows_ == chunk_rows_) submit(take);
    bytes += taken * row_elements_ * hdf5::element_size(type);
    rows -= taken;
  }
  return Outcome::stored;
}

ChunkStream::Outcome ChunkStream::append_rows(const std::byte* bytes, TensorType type, std::size_t rows,
                                              std::vector<float>& scratch) {
  if (pending_.size() == 0) pending_ = ChunkBytes(chunk_rows_ * row_bytes_);
  const std::size_t count = rows * row_elements_;
  const std::size_t stored =
      convert_rows(bytes, type, count, type_, pending_.data() + pending_rows_ * row_bytes_, scratch);
  pending_rows_ += stored / row_elements_;
  return stored == count ? Outcome::stored : Outcome::bad_value;
}

bool ChunkStream::submit(const TakeChunk& take) {
  Chunk chunk{place_, submitted_, pending_rows_, std::move(pending_)};
  if (!take(chunk)) {
    pending_ = std::move(chunk.bytes);
    return false;
  }
  pending_ = {};
  submitted_ += std::exchange(pending_rows_, 0);
  return true;
}

void ChunkStream::finish(std::size_t rows, const TakeChunk& take) {
  rows = std::min(rows, this->rows());
  if (rows <= submitted_) return;
  Chunk chunk{place_, submitted_, rows - submitted_, std::move(pending_)};
  const std::size_t used = chunk.rows * row_bytes_;
  std::fill(chunk.bytes.data() + used, chunk.bytes.data() + chunk.bytes.size(), std::byte{});
  take(chunk);
  pending_ = {};
  pending_rows_ = 0;
}

std::string bad_value_text(LayerTensor tensor, int layer, TensorType type) {
  return fmt::format("layer {}: {} holds NaN, infinity or a value beyond {}", layer, to_string(tensor),
                     traces::to_string(type));
}

}  // namespace evictsim::traces::capture

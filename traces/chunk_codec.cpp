#include "traces/chunk_codec.h"

#include <zlib.h>

#include <algorithm>
#include <limits>

namespace evictsim::traces {
namespace {

/// All first bytes of the elements, then all second bytes, ...
template <std::size_t size>
void split_planes(const std::byte* elements, std::size_t count, std::byte* planes) {
  for (std::size_t item = 0; item < count; ++item) {
    for (std::size_t plane = 0; plane < size; ++plane) planes[plane * count + item] = elements[item * size + plane];
  }
}

void split_planes(const std::byte* elements, std::size_t count, std::size_t size, std::byte* planes) {
  if (size == 2) return split_planes<2>(elements, count, planes);
  if (size == 4) return split_planes<4>(elements, count, planes);
  for (std::size_t plane = 0; plane < size; ++plane) {
    for (std::size_t item = 0; item < count; ++item) planes[plane * count + item] = elements[item * size + plane];
  }
}

constexpr std::uint32_t deflate_filter = 1U << 1U;

}  // namespace

ChunkEncoder::ChunkEncoder() : stream_(std::make_unique<z_stream>()) {
  if (deflateInit(stream_.get(), 1) != Z_OK) {
    throw Error(ErrorCode::unsupported, "zlib cannot be used: out of memory, or another version than at build time");
  }
}

ChunkEncoder::~ChunkEncoder() { deflateEnd(stream_.get()); }

EncodedChunk ChunkEncoder::encode(std::span<const std::byte> chunk, std::size_t element) {
  if (chunk.size() > std::numeric_limits<uInt>::max()) {
    throw Error(ErrorCode::unsupported, "a chunk must be smaller than 4 GiB");
  }
  shuffled_.resize(chunk.size());
  split_planes(chunk.data(), chunk.size() / element, element, shuffled_.data());
  // Room for what is worth keeping: deflate stops when the chunk does not get smaller.
  deflated_.resize(std::max<std::size_t>(chunk.size(), 1) - 1);
  deflateReset(stream_.get());
  stream_->next_in = reinterpret_cast<Bytef*>(shuffled_.data());
  stream_->avail_in = static_cast<uInt>(shuffled_.size());
  stream_->next_out = reinterpret_cast<Bytef*>(deflated_.data());
  stream_->avail_out = static_cast<uInt>(deflated_.size());
  if (deflate(stream_.get(), Z_FINISH) != Z_STREAM_END) return {shuffled_, deflate_filter};
  return {std::span<const std::byte>(deflated_).first(deflated_.size() - stream_->avail_out), 0};
}

void write_chunk(const hdf5::Node& dataset, std::size_t first, std::size_t rows, const EncodedChunk& chunk) {
  std::vector<std::size_t> shape = dataset.shape();
  if (shape[0] < rows) {
    shape[0] = rows;
    dataset.resize(shape);
  }
  std::vector<hsize_t> origin(shape.size(), 0);
  origin[0] = first;
  if (H5Dwrite_chunk(dataset.id(), H5P_DEFAULT, chunk.skipped_filters, origin.data(), chunk.bytes.size(),
                     chunk.bytes.data()) < 0) {
    throw chunk_not_written(dataset);
  }
}

Error chunk_not_written(const hdf5::Node& dataset) {
  return dataset.error(ErrorCode::io_failure, "a chunk cannot be written: is the disk full?");
}

}  // namespace evictsim::traces

#include "traces/stored_rows.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>

#include "traces/half.h"

namespace evictsim::traces::hdf5 {
namespace {

/// The checksum of HDF5's fletcher32 filter: 16-bit big-endian words, an odd last byte as the high one.
std::uint32_t fletcher32(const std::byte* data, std::size_t size) {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  for (std::size_t index = 0; index < size; index += 2) {
    const auto first = std::to_integer<std::uint64_t>(data[index]);
    const auto second = index + 1 < size ? std::to_integer<std::uint64_t>(data[index + 1]) : 0;
    low = (low + ((first << 8) | second)) % 65535;
    high = (high + low) % 65535;
  }
  return static_cast<std::uint32_t>((high << 16) | low);
}

/// The descriptor of the dataset's file when addresses in its storage are offsets in that file and what they lead to is
/// up to date; else -1.
int descriptor_of(const Node& dataset) {
  const Handle file(H5Iget_file_id(dataset.id()));
  const Handle creation(H5Fget_create_plist(file.get()));
  const Handle access(H5Fget_access_plist(file.get()));
  unsigned intent = H5F_ACC_RDWR;
  hsize_t user_block = 1;
  void* descriptor = nullptr;
  if (H5Fget_intent(file.get(), &intent) < 0 || intent != H5F_ACC_RDONLY ||
      H5Pget_userblock(creation.get(), &user_block) < 0 || user_block != 0 ||
      H5Pget_driver(access.get()) != H5FD_SEC2 || H5Fget_vfd_handle(file.get(), access.get(), &descriptor) < 0) {
    return -1;
  }
  return *static_cast<const int*>(descriptor);
}

/// Puts the bytes of `count` elements together that lie in planes: all first bytes, all second bytes, ...
template <std::size_t size>
void join_planes(const std::byte* planes, std::size_t count, std::byte* elements) {
  for (std::size_t item = 0; item < count; ++item) {
    for (std::size_t plane = 0; plane < size; ++plane) elements[item * size + plane] = planes[plane * count + item];
  }
}

void join_planes(const std::byte* planes, std::size_t count, std::size_t size, std::byte* elements) {
  if (size == 2) return join_planes<2>(planes, count, elements);
  if (size == 4) return join_planes<4>(planes, count, elements);
  for (std::size_t plane = 0; plane < size; ++plane) {
    for (std::size_t item = 0; item < count; ++item) elements[item * size + plane] = planes[plane * count + item];
  }
}

template <typename Stored, typename Wide>
void widen(const std::vector<std::byte>& bytes, bool swap, std::vector<Wide>& values) {
  for (std::size_t index = 0; index < values.size(); ++index) {
    std::array<std::byte, sizeof(Stored)> element{};
    std::memcpy(element.data(), bytes.data() + index * sizeof(Stored), sizeof(Stored));
    if (swap) std::reverse(element.begin(), element.end());
    // NOLINTNEXTLINE(bugprone-signed-char-misuse): an 8-bit integer is a number here, not a character
    values[index] = static_cast<Wide>(std::bit_cast<Stored>(element));
  }
}

std::vector<std::byte> read_all(const Node& dataset) {
  StoredRows rows(dataset);
  std::vector<std::byte> bytes(rows.rows() * rows.row_bytes());
  rows.read(0, rows.rows(), bytes.data());
  return bytes;
}

}  // namespace

StoredRows::StoredRows(const Node& dataset) : dataset_(dataset) {
  const Guard guard;
  shape_ = dataset.shape();
  const Handle type(H5Dget_type(dataset.id()));
  element_ = H5Tget_size(type.get());
  row_bytes_ = element_;
  for (std::size_t axis = 1; axis < shape_.size(); ++axis) row_bytes_ *= shape_[axis];
  const Handle properties(H5Dget_create_plist(dataset.id()));
  const H5D_layout_t layout = H5Pget_layout(properties.get());
  if (layout == H5D_CONTIGUOUS) {
    run_rows_ = rows();
    run_place_ = H5Dget_offset(dataset.id());
    if (run_place_ != HADDR_UNDEF) descriptor_ = descriptor_of(dataset);
  }
  if (layout != H5D_CHUNKED) return;
  std::vector<hsize_t> chunk(shape_.size());
  if (H5Pget_chunk(properties.get(), static_cast<int>(chunk.size()), chunk.data()) != static_cast<int>(shape_.size())) {
    throw damaged();
  }
  chunk_.assign(chunk.begin(), chunk.end());
  chunk_bytes_ = element_;
  for (const std::size_t extent : chunk_) chunk_bytes_ *= extent;
  step_bytes_ = element_;
  for (axes_ = shape_.size(); axes_ > 1 && chunk_[axes_ - 1] == shape_[axes_ - 1]; --axes_) {
    step_bytes_ *= shape_[axes_ - 1];
  }
  const int filters = H5Pget_nfilters(properties.get());
  for (int index = 0; index < filters; ++index) {
    unsigned flags = 0;
    std::size_t values = 0;
    filters_.push_back(
        H5Pget_filter2(properties.get(), static_cast<unsigned>(index), &flags, &values, nullptr, 0, nullptr, nullptr));
  }
  if (filters_.empty() && axes_ == 1) {
    run_rows_ = chunk_[0];
    descriptor_ = descriptor_of(dataset);
  }
}

void StoredRows::Bytes::resize(std::size_t wanted) {
  if (wanted > capacity) {
    data = std::make_unique_for_overwrite<std::byte[]>(wanted);
    capacity = wanted;
  }
  size = wanted;
}

Error StoredRows::damaged() const {
  return dataset_.error(ErrorCode::not_a_trace, "its values cannot be read: the file is damaged");
}

void StoredRows::reverse_filters(std::uint32_t skipped) {
  for (std::size_t index = filters_.size(); index-- > 0;) {
    if (index < 32 && ((skipped >> index) & 1U) != 0) continue;
    switch (filters_[index]) {
      case H5Z_FILTER_FLETCHER32: {
        std::uint32_t expected = 0;
        if (bytes_.size < sizeof expected) throw damaged();
        bytes_.size -= sizeof expected;
        std::memcpy(&expected, bytes_.data.get() + bytes_.size, sizeof expected);
        if (fletcher32(bytes_.data.get(), bytes_.size) != expected) throw damaged();
        break;
      }
      case H5Z_FILTER_DEFLATE: {
        scratch_.resize(chunk_bytes_ + 4 * filters_.size());  // checksums may lie below
        uLongf size = scratch_.size;
        if (::uncompress(reinterpret_cast<Bytef*>(scratch_.data.get()), &size,
                         reinterpret_cast<const Bytef*>(bytes_.data.get()), bytes_.size) != Z_OK) {
          throw damaged();
        }
        scratch_.size = size;
        std::swap(bytes_, scratch_);
        break;
      }
      default: {  // shuffle: byte planes; a rest shorter than an element stays in place
        const std::size_t count = bytes_.size / element_;
        const std::size_t joined = count * element_;
        scratch_.resize(bytes_.size);
        join_planes(bytes_.data.get(), count, element_, scratch_.data.get());
        std::copy(bytes_.data.get() + joined, bytes_.data.get() + bytes_.size, scratch_.data.get() + joined);
        std::swap(bytes_, scratch_);
      }
    }
  }
  if (bytes_.size != chunk_bytes_) throw damaged();
}

haddr_t StoredRows::chunk_place(const std::vector<std::size_t>& origin) const {
  const std::vector<hsize_t> offset(origin.begin(), origin.end());
  unsigned ignored_mask = 0;
  haddr_t place = HADDR_UNDEF;
  hsize_t stored = 0;
  if (H5Dget_chunk_info_by_coord(dataset_.id(), offset.data(), &ignored_mask, &place, &stored) < 0 ||
      place == HADDR_UNDEF || stored != chunk_bytes_) {
    throw damaged();
  }
  return place;
}

void StoredRows::read_chunk(const std::vector<std::size_t>& origin) {
  const std::vector<hsize_t> offset(origin.begin(), origin.end());
  std::uint32_t skipped = 0;
  {
    const Guard guard;
    hsize_t stored = 0;
    if (filters_.empty()) {
      // The other call answers with the size it expects, and H5Dread_chunk then reads the size in the file.
      stored = chunk_bytes_;
      static_cast<void>(chunk_place(origin));
    } else if (H5Dget_chunk_storage_size(dataset_.id(), offset.data(), &stored) < 0) {
      throw damaged();
    }
    // Deflate gives up on a chunk that it cannot shrink, so a stored chunk is hardly larger than a decoded one.
    if (stored == 0 || stored > chunk_bytes_ + chunk_bytes_ / 8 + 1024) throw damaged();
    bytes_.resize(stored);
    if (H5Dread_chunk(dataset_.id(), H5P_DEFAULT, offset.data(), &skipped, bytes_.data.get()) < 0) throw damaged();
  }
  reverse_filters(skipped);
}

void StoredRows::copy_from_chunk(const std::vector<std::size_t>& origin, std::size_t first, std::size_t count,
                                 std::byte* buffer) const {
  const std::size_t rank = axes_;
  // Runs along the last axis; `index` walks over all other axes of the part of the chunk that lies inside the dataset.
  std::vector<std::size_t> low(rank, 0);
  std::vector<std::size_t> high(rank);
  for (std::size_t axis = 0; axis < rank; ++axis) high[axis] = std::min(chunk_[axis], shape_[axis] - origin[axis]);
  low[0] = std::max(first, origin[0]) - origin[0];
  high[0] = std::min(high[0], first + count - origin[0]);
  std::vector<std::size_t> index = low;
  const std::size_t last = rank - 1;
  const std::size_t run = (high[last] - low[last]) * step_bytes_;
  for (;;) {
    std::size_t source = 0;
    std::size_t target = 0;
    for (std::size_t axis = 0; axis < rank; ++axis) {
      source = source * chunk_[axis] + index[axis];
      const std::size_t place = origin[axis] + index[axis] - (axis == 0 ? first : 0);
      target = axis == 0 ? place : target * shape_[axis] + place;
    }
    std::memcpy(buffer + target * step_bytes_, bytes_.data.get() + source * step_bytes_, run);
    std::size_t axis = last;
    while (axis > 0 && ++index[axis - 1] == high[axis - 1]) {
      index[axis - 1] = low[axis - 1];
      --axis;
    }
    if (axis == 0) return;
  }
}

void StoredRows::read_file(haddr_t place, std::size_t size, std::byte* buffer) const {
  constexpr auto furthest = static_cast<haddr_t>(std::numeric_limits<off_t>::max());
  if (place > furthest || size > furthest - place) throw damaged();
  while (size > 0) {
    const ssize_t count = ::pread(descriptor_, buffer, size, static_cast<off_t>(place));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) throw damaged();
    buffer += count;
    place += static_cast<haddr_t>(count);
    size -= static_cast<std::size_t>(count);
  }
}

void StoredRows::read_plain(std::size_t first, std::size_t count, std::byte* buffer) {
  while (count > 0) {
    if (run_place_ == HADDR_UNDEF || first - run_first_ >= run_rows_) {
      std::vector<std::size_t> origin(shape_.size(), 0);
      origin[0] = first / run_rows_ * run_rows_;
      const Guard guard;
      run_place_ = chunk_place(origin);
      run_first_ = origin[0];
    }
    const std::size_t skipped = first - run_first_;
    const std::size_t taken = std::min(count, run_rows_ - skipped);
    if (run_place_ > std::numeric_limits<haddr_t>::max() - skipped * row_bytes_) throw damaged();
    read_file(run_place_ + skipped * row_bytes_, taken * row_bytes_, buffer);
    buffer += taken * row_bytes_;
    first += taken;
    count -= taken;
  }
}

void StoredRows::read(std::size_t first, std::size_t count, std::byte* buffer) {
  if (count == 0 || row_bytes_ == 0) return;
  if (descriptor_ >= 0) return read_plain(first, count, buffer);
  if (chunk_.empty()) {
    const Guard guard;
    dataset_.read_rows(shape_, first, count, buffer);
    return;
  }
  std::vector<std::size_t> origin(shape_.size(), 0);
  const std::size_t first_chunk = first / chunk_[0] * chunk_[0];
  origin[0] = first_chunk;
  const std::size_t end = first + count;
  for (;;) {
    read_chunk(origin);
    copy_from_chunk(origin, first, count, buffer);
    std::size_t axis = shape_.size();
    while (axis > 0) {
      --axis;
      origin[axis] += chunk_[axis];
      if (origin[axis] < (axis == 0 ? end : shape_[axis])) break;
      if (axis == 0) return;
      origin[axis] = 0;
    }
  }
}

std::vector<std::int64_t> read_integers(const Node& dataset) {
  const Guard guard;
  const Handle type(H5Dget_type(dataset.id()));
  const std::size_t size = H5Tget_size(type.get());
  if (H5Tget_class(type.get()) != H5T_INTEGER || H5Tget_precision(type.get()) != 8 * size ||
      !std::has_single_bit(size) || size > 8) {
    throw dataset.error(ErrorCode::wrong_type, "must hold integers");
  }
  const bool swap = H5Tget_order(type.get()) != H5T_ORDER_LE;
  const bool is_signed = H5Tget_sign(type.get()) == H5T_SGN_2;
  const std::vector<std::byte> bytes = read_all(dataset);
  std::vector<std::int64_t> values(bytes.size() / size);
  switch (size) {
    case 1:
      is_signed ? widen<std::int8_t>(bytes, swap, values) : widen<std::uint8_t>(bytes, swap, values);
      break;
    case 2:
      is_signed ? widen<std::int16_t>(bytes, swap, values) : widen<std::uint16_t>(bytes, swap, values);
      break;
    case 4:
      is_signed ? widen<std::int32_t>(bytes, swap, values) : widen<std::uint32_t>(bytes, swap, values);
      break;
    // An unsigned value beyond the signed range turns negative, which every rule of the format refuses.
    default:
      widen<std::int64_t>(bytes, swap, values);
  }
  return values;
}

std::vector<double> read_reals(const Node& dataset) {
  const Guard guard;
  const Handle type(H5Dget_type(dataset.id()));
  if (H5Tget_class(type.get()) == H5T_INTEGER) {
    const std::vector<std::int64_t> whole = read_integers(dataset);
    return {whole.begin(), whole.end()};
  }
  if (H5Tequal(type.get(), H5T_IEEE_F64LE) > 0) {
    const std::vector<std::byte> bytes = read_all(dataset);
    std::vector<double> values(bytes.size() / sizeof(double));
    widen<double>(bytes, false, values);
    return values;
  }
  const TensorType narrow = dataset.tensor_type();
  const std::vector<std::byte> bytes = read_all(dataset);
  std::vector<double> values(bytes.size() / element_size(narrow));
  if (narrow == TensorType::float32) {
    widen<float>(bytes, false, values);
    return values;
  }
  std::vector<std::uint16_t> patterns(values.size());
  widen<std::uint16_t>(bytes, false, patterns);
  const bool half = narrow == TensorType::float16;
  std::transform(patterns.begin(), patterns.end(), values.begin(),
                 [half](std::uint16_t bits) { return half ? half_to_float(bits) : bfloat_to_float(bits); });
  return values;
}

}  // namespace evictsim::traces::hdf5

#include "traces/hdf5_handle.h"

#include <algorithm>
#include <array>
#include <new>

#include "traces/hdf5_exit.h"

namespace evictsim::traces::hdf5 {
namespace {

std::recursive_mutex& library_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

Handle custom_float(std::size_t sign, std::size_t exponent, std::size_t exponent_bits, std::size_t mantissa_bits,
                    std::size_t bias) {
  Handle type(H5Tcopy(H5T_IEEE_F32LE));
  H5Tset_fields(type.get(), sign, exponent, exponent_bits, 0, mantissa_bits);
  H5Tset_size(type.get(), 2);
  H5Tset_ebias(type.get(), bias);
  return type;
}

}  // namespace

Guard::Guard() : lock_(library_mutex()) {
  H5Eget_auto2(H5E_DEFAULT, &function_, &data_);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

// The owner that the lock remembers is the parent's thread, so neither locking nor unlocking would work here.
void Guard::reset_after_fork() { new (&library_mutex()) std::recursive_mutex; }

Guard::~Guard() {
  // A thread that ends with errors on its stack keeps HDF5 from closing at the end of the process.
  H5Eclear2(H5E_DEFAULT);
  H5Eset_auto2(H5E_DEFAULT, function_, data_);
}

void Handle::reset() {
  if (id_ < 0) return;
  const Guard guard;
  H5Idec_ref(id_);
  id_ = H5I_INVALID_HID;
}

Handle tensor_type(TensorType type) {
  switch (type) {
    case TensorType::float16:
      return custom_float(15, 10, 5, 10, 15);
    case TensorType::bfloat16:
      return custom_float(15, 7, 8, 7, 127);
    case TensorType::float32:
      break;
  }
  return Handle(H5Tcopy(H5T_IEEE_F32LE));
}

std::size_t element_size(TensorType type) { return type == TensorType::float32 ? 4 : 2; }

Error Node::error(ErrorCode code, const std::string& message, const std::string& value) const {
  return {code, message, {.file = file_, .dataset = path_, .parameter = {}, .value = value}};
}

Error Node::attribute_error(std::string_view name, ErrorCode code, const std::string& message,
                            const std::string& value) const {
  return {code, message, {.file = file_, .dataset = path_ + "@" + std::string(name), .parameter = {}, .value = value}};
}

std::string Node::child_path(const std::string& name) const { return path_ == "/" ? path_ + name : path_ + "/" + name; }

Node Node::open_file(const std::string& path, std::uint64_t file_size) {
  const Error refused(ErrorCode::not_a_trace, "not an HDF5 file, or a truncated or damaged one", {.file = path});
  if (file_size == 0) throw Error(ErrorCode::not_a_trace, "the file is empty; a trace is an HDF5 file", {.file = path});
  if (H5Fis_hdf5(path.c_str()) <= 0) throw refused;
  const Handle access(H5Pcreate(H5P_FILE_ACCESS));
  H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG);
  Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()));
  if (!file.valid()) throw refused;
  return {std::move(file), path, "/", file_size};
}

bool Node::has(const std::string& name) const {
  const htri_t found = H5Lexists(id(), name.c_str(), H5P_DEFAULT);
  if (found < 0) throw error(ErrorCode::not_a_trace, "the group is damaged: its links cannot be read");
  return found > 0;
}

std::vector<std::string> Node::names() const {
  std::vector<std::string> found;
  hsize_t index = 0;
  const auto visit = [](hid_t, const char* name, const H5L_info_t*, void* data) -> herr_t {
    static_cast<std::vector<std::string>*>(data)->emplace_back(name);
    return 0;
  };
  if (H5Literate(id(), H5_INDEX_NAME, H5_ITER_INC, &index, visit, &found) < 0) {
    throw error(ErrorCode::not_a_trace, "the group is damaged: its links cannot be listed");
  }
  return found;
}

void Node::require_hard_link(const std::string& name) const {
  if (!has(name)) {
    throw Error(ErrorCode::missing_data, "required by the format and absent",
                {.file = file_, .dataset = child_path(name)});
  }
  H5L_info_t info{};
  if (H5Lget_info(id(), name.c_str(), &info, H5P_DEFAULT) < 0 || info.type != H5L_TYPE_HARD) {
    throw Error(ErrorCode::wrong_type, "must be an object of this file, not a link to elsewhere",
                {.file = file_, .dataset = child_path(name)});
  }
}

std::optional<ExternalLink> Node::external_link(const std::string& name) const {
  H5L_info_t info{};
  if (H5Lget_info(id(), name.c_str(), &info, H5P_DEFAULT) < 0 || info.type != H5L_TYPE_EXTERNAL) return std::nullopt;
  std::vector<char> value(info.u.val_size);
  unsigned flags = 0;
  const char* file = nullptr;
  const char* object = nullptr;
  if (H5Lget_val(id(), name.c_str(), value.data(), value.size(), H5P_DEFAULT) < 0 ||
      H5Lunpack_elink_val(value.data(), value.size(), &flags, &file, &object) < 0) {
    throw Error(ErrorCode::not_a_trace, "the link is damaged", {.file = file_, .dataset = child_path(name)});
  }
  return ExternalLink{file, object};
}

bool Node::has_group(const std::string& name) const {
  H5O_info_t info{};
  return has(name) && H5Oget_info_by_name(id(), name.c_str(), &info, H5P_DEFAULT) >= 0 && info.type == H5O_TYPE_GROUP;
}

Node Node::group(const std::string& name) const {
  require_hard_link(name);
  Handle handle(H5Gopen2(id(), name.c_str(), H5P_DEFAULT));
  if (!handle.valid()) {
    throw Error(ErrorCode::wrong_type, "must be a readable group", {.file = file_, .dataset = child_path(name)});
  }
  return {std::move(handle), file_, child_path(name), file_size_};
}

Node Node::dataset(const std::string& name) const {
  require_hard_link(name);
  Handle handle(H5Dopen2(id(), name.c_str(), H5P_DEFAULT));
  if (!handle.valid()) {
    throw Error(ErrorCode::wrong_type, "must be a readable dataset", {.file = file_, .dataset = child_path(name)});
  }
  Node node(std::move(handle), file_, child_path(name), file_size_);
  node.require_plausible_storage();
  return node;
}

std::vector<std::size_t> Node::shape() const {
  const Handle space(H5Dget_space(id()));
  const int rank = space.valid() ? H5Sget_simple_extent_ndims(space.get()) : -1;
  if (rank < 0 || rank > H5S_MAX_RANK || H5Sget_simple_extent_type(space.get()) == H5S_NULL) {
    throw error(ErrorCode::wrong_shape, "must be an array");
  }
  std::vector<hsize_t> extents(static_cast<std::size_t>(rank));
  if (rank > 0 && H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr) < 0) {
    throw error(ErrorCode::wrong_shape, "its extents cannot be read");
  }
  return {extents.begin(), extents.end()};
}

void Node::require_shape(const std::vector<std::size_t>& expected, const char* meaning) const {
  const auto text = [](const std::vector<std::size_t>& extents) {
    std::string line = "[";
    for (const std::size_t extent : extents) line += (line.size() > 1 ? ", " : "") + std::to_string(extent);
    return line + "]";
  };
  const std::vector<std::size_t> found = shape();
  if (found == expected) return;
  throw error(ErrorCode::wrong_shape, "must have shape " + std::string(meaning) + " = " + text(expected), text(found));
}

// A damaged or hostile file may claim any extent. Nothing is allocated for a dataset before the bytes it claims have
// been held against the bytes that the file stores for it.
void Node::require_plausible_storage() const {
  constexpr std::uint64_t deflate_limit = 1040;  // deflate cannot shrink by more than 1032
  constexpr std::uint64_t small = std::uint64_t{1} << 20;
  const Handle type(H5Dget_type(id()));
  const Handle properties(H5Dget_create_plist(id()));
  const std::uint64_t element = type.valid() ? H5Tget_size(type.get()) : 0;
  if (element == 0 || !properties.valid()) throw error(ErrorCode::not_a_trace, "the dataset is damaged");
  const H5D_layout_t layout = H5Pget_layout(properties.get());
  if ((layout != H5D_CONTIGUOUS && layout != H5D_CHUNKED && layout != H5D_COMPACT) ||
      (layout == H5D_CONTIGUOUS && H5Pget_external_count(properties.get()) != 0)) {
    throw error(ErrorCode::unsupported, "must store its values in this file");
  }
  const std::vector<std::size_t> extents = shape();
  std::uint64_t bytes = element;
  for (const std::size_t extent : extents) {
    if (__builtin_mul_overflow(bytes, std::uint64_t{extent}, &bytes)) {
      throw error(ErrorCode::wrong_shape, "claims more bytes than any file holds");
    }
  }
  if (bytes == 0) return;
  const std::uint64_t stored = H5Dget_storage_size(id());
  if (stored > file_size_)
    throw error(ErrorCode::not_a_trace, "the dataset is damaged: it claims more bytes than the file has");
  if (layout != H5D_CHUNKED) {
    if (stored < bytes) throw error(ErrorCode::wrong_shape, "claims more values than the file stores");
    return;
  }
  bool deflated = false;
  const int filters = H5Pget_nfilters(properties.get());
  if (filters < 0) throw error(ErrorCode::not_a_trace, "the dataset is damaged: its filters cannot be read");
  for (int index = 0; index < filters; ++index) {
    unsigned flags = 0;
    std::size_t values = 0;
    const H5Z_filter_t filter =
        H5Pget_filter2(properties.get(), static_cast<unsigned>(index), &flags, &values, nullptr, 0, nullptr, nullptr);
    if (filter != H5Z_FILTER_DEFLATE && filter != H5Z_FILTER_SHUFFLE && filter != H5Z_FILTER_FLETCHER32) {
      throw error(ErrorCode::unsupported, "must be stored plain or with the shuffle, deflate and fletcher32 filters",
                  "HDF5 filter " + std::to_string(filter));
    }
    deflated |= filter == H5Z_FILTER_DEFLATE;
  }
  std::vector<hsize_t> chunk(extents.size());
  if (H5Pget_chunk(properties.get(), static_cast<int>(chunk.size()), chunk.data()) < 0) {
    throw error(ErrorCode::not_a_trace, "the dataset is damaged: its chunks cannot be read");
  }
  std::uint64_t chunk_bytes = element;
  for (const hsize_t extent : chunk) chunk_bytes *= extent;  // HDF5 itself keeps chunks below 4 GiB
  if (chunk_bytes > std::max(bytes, 16 * small)) {
    throw error(ErrorCode::wrong_shape, "has chunks larger than its values");
  }
  const std::uint64_t limit = deflated ? deflate_limit : 1;
  if (bytes / limit > stored) throw error(ErrorCode::wrong_shape, "claims more values than the file stores");
}

TensorType Node::tensor_type() const {
  const Handle type(H5Dget_type(id()));
  if (H5Tget_class(type.get()) == H5T_FLOAT && H5Tget_order(type.get()) == H5T_ORDER_LE &&
      H5Tget_norm(type.get()) == H5T_NORM_IMPLIED && H5Tget_offset(type.get()) == 0) {
    std::size_t sign = 0;
    std::size_t exponent = 0;
    std::size_t exponent_bits = 0;
    std::size_t mantissa = 0;
    std::size_t mantissa_bits = 0;
    H5Tget_fields(type.get(), &sign, &exponent, &exponent_bits, &mantissa, &mantissa_bits);
    const std::size_t size = H5Tget_size(type.get());
    const std::size_t bias = H5Tget_ebias(type.get());
    const auto is = [&](std::size_t bytes, std::size_t exponent_width, std::size_t mantissa_width,
                        std::size_t expected_bias) {
      return size == bytes && sign == 8 * bytes - 1 && exponent == mantissa_width && exponent_bits == exponent_width &&
             mantissa == 0 && mantissa_bits == mantissa_width && bias == expected_bias &&
             H5Tget_precision(type.get()) == 8 * bytes;
    };
    if (is(2, 5, 10, 15)) return TensorType::float16;
    if (is(2, 8, 7, 127)) return TensorType::bfloat16;
    if (is(4, 8, 23, 127)) return TensorType::float32;
  }
  throw error(ErrorCode::wrong_type, "must be float16, bfloat16 or float32, little-endian");
}

void Node::read_rows(const std::vector<std::size_t>& shape, std::size_t first, std::size_t count, void* buffer) const {
  if (count == 0) return;
  std::vector<hsize_t> extent(shape.begin(), shape.end());
  std::vector<hsize_t> start(shape.size(), 0);
  const Handle type(H5Dget_type(id()));
  if (shape.empty()) {
    if (H5Dread(id(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, buffer) >= 0) return;
    throw error(ErrorCode::not_a_trace, "its values cannot be read: the file is damaged");
  }
  extent[0] = count;
  start[0] = first;
  const Handle file_space(H5Dget_space(id()));
  const Handle memory_space(H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr));
  if (H5Sselect_hyperslab(file_space.get(), H5S_SELECT_SET, start.data(), nullptr, extent.data(), nullptr) < 0 ||
      H5Dread(id(), type.get(), memory_space.get(), file_space.get(), H5P_DEFAULT, buffer) < 0) {
    throw error(ErrorCode::not_a_trace, "its values cannot be read: the file is damaged");
  }
}

}  // namespace evictsim::traces::hdf5

namespace evictsim::traces {

void leave_hdf5_open_at_exit() { H5dont_atexit(); }

}  // namespace evictsim::traces

// Creating files, groups and datasets.
#include <algorithm>
#include <limits>

#include "traces/hdf5_driver.h"

namespace evictsim::traces::hdf5 {
namespace {

/// Properties of a new object of that class without times, which would make two writes of the same data differ.
Handle timeless(hid_t object_class) {
  Handle properties(H5Pcreate(object_class));
  H5Pset_obj_track_times(properties.get(), false);
  return properties;
}

std::vector<hsize_t> extents_of(const std::vector<std::size_t>& shape) { return {shape.begin(), shape.end()}; }

}  // namespace

Node Node::create_file(const std::string& path, const std::string& shown, std::size_t alignment) {
  const Handle access(H5Pcreate(H5P_FILE_ACCESS));
  H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG);
  // The 1.10 layout has checksums on all metadata, so that damage is noticed when a file is opened.
  H5Pset_libver_bounds(access.get(), H5F_LIBVER_V110, H5F_LIBVER_V110);
  H5Pset_driver(access.get(), output_driver(), nullptr);
  if (alignment > 1) {
    H5Pset_alignment(access.get(), alignment, alignment);
    // Metadata in pieces of that size too, or each small one between two chunks would leave a gap behind it.
    H5Pset_meta_block_size(access.get(), alignment);
  }
  const Handle creation = timeless(H5P_FILE_CREATE);
  Handle file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()));
  if (!file.valid()) throw Error(ErrorCode::io_failure, "cannot create the file", {.file = shown});
  // What is written here is trusted: there is no size to hold it against.
  return {std::move(file), shown, "/", std::numeric_limits<std::uint64_t>::max()};
}

Node Node::create_group(const std::string& name) const {
  const Handle creation = timeless(H5P_GROUP_CREATE);
  Handle handle(H5Gcreate2(id(), name.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT));
  if (!handle.valid()) {
    throw Error(ErrorCode::io_failure, "cannot create the group", {.file = file_, .dataset = child_path(name)});
  }
  return {std::move(handle), file_, child_path(name), file_size_};
}

void Node::link(const std::string& name, const ExternalLink& target) const {
  if (H5Lcreate_external(target.file.c_str(), target.object.c_str(), id(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT) <
      0) {
    throw Error(ErrorCode::io_failure, "cannot be linked to " + target.file,
                {.file = file_, .dataset = child_path(name)});
  }
}

void Node::remove(const std::string& name) const {
  if (H5Ldelete(id(), name.c_str(), H5P_DEFAULT) < 0) {
    throw Error(ErrorCode::io_failure, "cannot be removed", {.file = file_, .dataset = child_path(name)});
  }
}

Node Node::create_dataset(const std::string& name, hid_t type, const std::vector<std::size_t>& shape,
                          const std::vector<std::size_t>& chunk, bool compress) const {
  const Handle properties = timeless(H5P_DATASET_CREATE);
  const std::vector<hsize_t> extents = extents_of(shape);
  std::vector<hsize_t> largest = extents;
  const int rank = static_cast<int>(extents.size());
  if (!chunk.empty()) {
    const std::vector<hsize_t> chunk_extents = extents_of(chunk);
    H5Pset_chunk(properties.get(), rank, chunk_extents.data());
    largest[0] = H5S_UNLIMITED;
    if (compress) {
      H5Pset_shuffle(properties.get());
      H5Pset_deflate(properties.get(), 1);
    }
  }
  const Handle space(H5Screate_simple(rank, extents.data(), largest.data()));
  Handle handle(H5Dcreate2(id(), name.c_str(), type, space.get(), H5P_DEFAULT, properties.get(), H5P_DEFAULT));
  if (!handle.valid()) {
    throw Error(ErrorCode::io_failure, "cannot create the dataset", {.file = file_, .dataset = child_path(name)});
  }
  return {std::move(handle), file_, child_path(name), file_size_};
}

void Node::write_integers(const std::string& name, const std::vector<std::size_t>& shape,
                          const std::vector<std::int32_t>& values) const {
  const Node dataset = create_dataset(name, H5T_STD_I32LE, shape);
  if (!values.empty() && H5Dwrite(dataset.id(), H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0) {
    throw dataset.error(ErrorCode::io_failure, "cannot be written");
  }
}

void Node::write_reals(const std::string& name, const std::vector<double>& values) const {
  const Node dataset = create_dataset(name, H5T_IEEE_F64LE, {values.size()});
  if (!values.empty() && H5Dwrite(dataset.id(), H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0) {
    throw dataset.error(ErrorCode::io_failure, "cannot be written");
  }
}

void Node::write_rows(const std::vector<std::size_t>& shape, std::size_t first, std::size_t count,
                      const void* buffer) const {
  if (count == 0) return;
  std::vector<hsize_t> extent = extents_of(shape);
  std::vector<hsize_t> start(shape.size(), 0);
  extent[0] = count;
  start[0] = first;
  const Handle type(H5Dget_type(id()));
  const Handle file_space(H5Dget_space(id()));
  const Handle memory_space(H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr));
  if (H5Sselect_hyperslab(file_space.get(), H5S_SELECT_SET, start.data(), nullptr, extent.data(), nullptr) < 0 ||
      H5Dwrite(id(), type.get(), memory_space.get(), file_space.get(), H5P_DEFAULT, buffer) < 0) {
    throw error(ErrorCode::io_failure, "cannot be written");
  }
}

void Node::resize(const std::vector<std::size_t>& shape) const {
  const std::vector<hsize_t> extents = extents_of(shape);
  if (H5Dset_extent(id(), extents.data()) < 0) throw error(ErrorCode::io_failure, "cannot be extended");
}

}  // namespace evictsim::traces::hdf5

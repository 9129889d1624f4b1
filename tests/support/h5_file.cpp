#include "tests/support/h5_file.h"

#include <stdexcept>

#include <fmt/format.h>
#include <hdf5.h>

namespace evictsim::test {
namespace {

std::string attribute_text(hid_t attribute) {
  const hid_t type = H5Aget_type(attribute);
  std::string text;
  switch (H5Tget_class(type)) {
    case H5T_STRING: {
      if (H5Tis_variable_str(type) > 0) {
        char* value = nullptr;
        H5Aread(attribute, type, &value);
        text = value;
        H5free_memory(value);
      } else {
        text.resize(H5Tget_size(type));
        H5Aread(attribute, type, text.data());
        text.resize(text.find('\0') == std::string::npos ? text.size() : text.find('\0'));
      }
      break;
    }
    case H5T_ENUM: {  // h5py's booleans
      signed char value = 0;
      H5Aread(attribute, type, &value);
      text = value != 0 ? "True" : "False";
      break;
    }
    case H5T_INTEGER: {
      long long value = 0;
      H5Aread(attribute, H5T_NATIVE_LLONG, &value);
      text = std::to_string(value);
      break;
    }
    case H5T_FLOAT: {
      double value = 0;
      H5Aread(attribute, H5T_NATIVE_DOUBLE, &value);
      text = fmt::format("{}", value);
      break;
    }
    default:
      text = "?";
  }
  H5Tclose(type);
  return text;
}

}  // namespace

namespace {

/// As the library opens files: HDF5 refuses one file opened in two ways at once.
long open_strong(const std::string& path) {
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access);
  H5Pclose(access);
  return file;
}

}  // namespace

H5File::H5File(const std::string& path) : file_(open_strong(path)) {
  if (file_ < 0) throw std::runtime_error("cannot open " + path);
}

H5File::~H5File() { H5Fclose(file_); }

bool H5File::has(const std::string& path) const {
  for (std::size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    if (H5Lexists(file_, path.substr(0, slash).c_str(), H5P_DEFAULT) <= 0) return false;
    if (slash == std::string::npos) return true;
  }
}

std::vector<std::string> H5File::children(const std::string& group) const {
  std::vector<std::string> names;
  const auto add = [](hid_t, const char* name, const H5L_info_t*, void* data) -> herr_t {
    static_cast<std::vector<std::string>*>(data)->emplace_back(name);
    return 0;
  };
  H5Literate_by_name(file_, group.c_str(), H5_INDEX_NAME, H5_ITER_INC, nullptr, add, &names, H5P_DEFAULT);
  return names;
}

std::map<std::string, std::string> H5File::attributes(const std::string& group) const {
  std::map<std::string, std::string> all;
  const hid_t object = H5Oopen(file_, group.c_str(), H5P_DEFAULT);
  const auto add = [](hid_t location, const char* name, const H5A_info_t*, void* data) -> herr_t {
    const hid_t attribute = H5Aopen(location, name, H5P_DEFAULT);
    (*static_cast<std::map<std::string, std::string>*>(data))[name] = attribute_text(attribute);
    H5Aclose(attribute);
    return 0;
  };
  H5Aiterate2(object, H5_INDEX_NAME, H5_ITER_INC, nullptr, add, &all);
  H5Oclose(object);
  return all;
}

H5Array H5File::read(const std::string& dataset) const {
  const hid_t id = H5Dopen2(file_, dataset.c_str(), H5P_DEFAULT);
  if (id < 0) throw std::runtime_error("no dataset " + dataset);
  const hid_t space = H5Dget_space(id);
  H5Array array;
  std::vector<hsize_t> extents(static_cast<std::size_t>(H5Sget_simple_extent_ndims(space)));
  H5Sget_simple_extent_dims(space, extents.data(), nullptr);
  array.shape.assign(extents.begin(), extents.end());
  array.values.resize(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
  if (!array.values.empty()) H5Dread(id, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, array.values.data());
  H5Sclose(space);
  H5Dclose(id);
  return array;
}

}  // namespace evictsim::test

// Attributes of groups and datasets.
#include <fmt/format.h>

#include <memory>

#include "traces/hdf5_handle.h"

namespace evictsim::traces::hdf5 {
namespace {

/// Longest string taken from a file.
constexpr std::size_t longest_text = std::size_t{1} << 26;

}  // namespace

bool Node::has_attribute(const std::string& name) const {
  const htri_t found = H5Aexists(id(), name.c_str());
  if (found < 0) throw error(ErrorCode::not_a_trace, "its attributes cannot be read: the file is damaged");
  return found > 0;
}

std::vector<std::string> Node::attribute_names() const {
  std::vector<std::string> found;
  hsize_t index = 0;
  const auto visit = [](hid_t, const char* name, const H5A_info_t*, void* data) -> herr_t {
    static_cast<std::vector<std::string>*>(data)->emplace_back(name);
    return 0;
  };
  if (H5Aiterate2(id(), H5_INDEX_NAME, H5_ITER_INC, &index, visit, &found) < 0) {
    throw error(ErrorCode::not_a_trace, "its attributes cannot be read: the file is damaged");
  }
  return found;
}

Handle Node::open_attribute(const std::string& name) const {
  if (!has_attribute(name)) throw attribute_error(name, ErrorCode::missing_data, "required by the format and absent");
  Handle attribute(H5Aopen(id(), name.c_str(), H5P_DEFAULT));
  if (!attribute.valid()) throw attribute_error(name, ErrorCode::not_a_trace, "cannot be read: the file is damaged");
  const Handle space(H5Aget_space(attribute.get()));
  if (H5Sget_simple_extent_npoints(space.get()) != 1) {
    throw attribute_error(name, ErrorCode::wrong_shape, "must be a scalar");
  }
  return attribute;
}

std::int64_t Node::integer_attribute(const std::string& name) const {
  const Handle attribute = open_attribute(name);
  const Handle type(H5Aget_type(attribute.get()));
  if (H5Tget_class(type.get()) != H5T_INTEGER) throw attribute_error(name, ErrorCode::wrong_type, "must be an integer");
  std::int64_t value = 0;
  if (H5Aread(attribute.get(), H5T_NATIVE_INT64, &value) < 0) {
    throw attribute_error(name, ErrorCode::not_a_trace, "cannot be read: the file is damaged");
  }
  return value;
}

double Node::real_attribute(const std::string& name) const {
  const Handle attribute = open_attribute(name);
  const Handle type(H5Aget_type(attribute.get()));
  const H5T_class_t kind = H5Tget_class(type.get());
  if (kind != H5T_FLOAT && kind != H5T_INTEGER) {
    throw attribute_error(name, ErrorCode::wrong_type, "must be a real number");
  }
  double value = 0;
  if (H5Aread(attribute.get(), H5T_NATIVE_DOUBLE, &value) < 0) {
    throw attribute_error(name, ErrorCode::not_a_trace, "cannot be read: the file is damaged");
  }
  return value;
}

std::string Node::text_attribute(const std::string& name) const {
  const Handle attribute = open_attribute(name);
  const Handle type(H5Aget_type(attribute.get()));
  if (H5Tget_class(type.get()) != H5T_STRING) throw attribute_error(name, ErrorCode::wrong_type, "must be a string");
  const Error damaged = attribute_error(name, ErrorCode::not_a_trace, "cannot be read: the file is damaged");
  if (H5Tis_variable_str(type.get()) > 0) {
    char* text = nullptr;
    if (H5Aread(attribute.get(), type.get(), static_cast<void*>(&text)) < 0) throw damaged;
    const std::unique_ptr<char, decltype(&H5free_memory)> owner(text, H5free_memory);
    return text != nullptr ? text : "";
  }
  const std::size_t size = H5Tget_size(type.get());
  if (size == 0 || size > longest_text || H5Aget_storage_size(attribute.get()) > file_size_) throw damaged;
  std::string text(size, '\0');
  if (H5Aread(attribute.get(), type.get(), text.data()) < 0) throw damaged;
  const H5T_str_t padding = H5Tget_strpad(type.get());
  if (padding == H5T_STR_NULLTERM) {
    text.resize(std::min(text.size(), text.find('\0')));
  } else {
    text.erase(text.find_last_not_of(padding == H5T_STR_SPACEPAD ? ' ' : '\0') + 1);
  }
  return text;
}

std::string Node::attribute_as_text(const std::string& name) const {
  Handle attribute(H5Aopen(id(), name.c_str(), H5P_DEFAULT));
  if (!attribute.valid()) throw attribute_error(name, ErrorCode::not_a_trace, "cannot be read: the file is damaged");
  const Handle space(H5Aget_space(attribute.get()));
  const Handle type(H5Aget_type(attribute.get()));
  if (H5Sget_simple_extent_npoints(space.get()) != 1) return {};
  switch (H5Tget_class(type.get())) {
    case H5T_INTEGER:
      return std::to_string(integer_attribute(name));
    case H5T_FLOAT:
      return fmt::format("{}", real_attribute(name));
    case H5T_STRING:
      return text_attribute(name);
    default:
      return {};
  }
}

void Node::write_attribute(const std::string& name, hid_t type, const void* value) const {
  const Handle space(H5Screate(H5S_SCALAR));
  if (has_attribute(name)) H5Adelete(id(), name.c_str());
  const Handle attribute(H5Acreate2(id(), name.c_str(), type, space.get(), H5P_DEFAULT, H5P_DEFAULT));
  if (!attribute.valid() || H5Awrite(attribute.get(), type, value) < 0) {
    throw attribute_error(name, ErrorCode::io_failure, "cannot be written");
  }
}

void Node::set_attribute(const std::string& name, std::int64_t value) const {
  write_attribute(name, H5T_NATIVE_INT64, &value);
}

void Node::set_attribute(const std::string& name, double value) const {
  write_attribute(name, H5T_NATIVE_DOUBLE, &value);
}

void Node::set_attribute(const std::string& name, const std::string& value) const {
  // Variable length, UTF-8: what h5py writes, and free of the 64 KiB limit of values inside an object header.
  const Handle type(H5Tcopy(H5T_C_S1));
  H5Tset_size(type.get(), H5T_VARIABLE);
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  const char* text = value.c_str();
  write_attribute(name, type.get(), static_cast<const void*>(&text));
}

}  // namespace evictsim::traces::hdf5

#include "analysis/run_file_output.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <system_error>

#include "analysis/version.h"
#include "traces/file_system.h"

namespace evictsim::analysis {

namespace hdf5 = traces::hdf5;

PendingFile::PendingFile(const std::filesystem::path& path)
    : path_(path), temporary_(path.string() + ".tmp." + std::to_string(::getpid())) {
  traces::require_replaceable(path);
  try {  // for the system's reason when it does not work; HDF5 has none
    const traces::FileDescriptor file(temporary_, O_WRONLY | O_CREAT | O_TRUNC, "create the file");
  } catch (const Error& problem) {
    throw Error(problem.code(), problem.message(), {.file = path.string()});
  }
  root_ = hdf5::Node::create_file(temporary_.string(), path.string());
}

PendingFile::~PendingFile() {
  if (temporary_.empty()) return;
  root_.close();
  std::error_code ignored;
  std::filesystem::remove(temporary_, ignored);
}

void PendingFile::seal() {
  if (H5Fflush(root_.id(), H5F_SCOPE_LOCAL) < 0)
    throw root_.error(ErrorCode::io_failure, "cannot be written: is the disk full?");
  root_.close();
  traces::sync_to_disk(temporary_);
  std::error_code problem;
  std::filesystem::rename(temporary_, path_, problem);
  if (problem) throw traces::system_error(problem.value(), path_, "rename the finished file");
  temporary_.clear();
  traces::sync_to_disk(path_.has_parent_path() ? path_.parent_path() : std::filesystem::path("."));
}

hdf5::Node group_in(const hdf5::Node& parent, const std::string& name) {
  return parent.has(name) ? parent.group(name) : parent.create_group(name);
}

void write_texts(const hdf5::Node& group, const std::string& name, const std::vector<std::string>& values) {
  const hdf5::Handle type(H5Tcopy(H5T_C_S1));
  H5Tset_size(type.get(), H5T_VARIABLE);
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  const hdf5::Node dataset = group.create_dataset(name, type.get(), {values.size()});
  std::vector<const char*> pointers;
  for (const std::string& value : values) pointers.push_back(value.c_str());
  if (!values.empty() && H5Dwrite(dataset.id(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, pointers.data()) < 0) {
    throw dataset.error(ErrorCode::io_failure, "cannot be written");
  }
}

hdf5::Node write_array(const hdf5::Node& group, const std::string& name, const std::vector<std::size_t>& shape,
                       const std::vector<double>& values) {
  hdf5::Node dataset = group.create_dataset(name, H5T_IEEE_F64LE, shape);
  if (!values.empty() && H5Dwrite(dataset.id(), H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0) {
    throw dataset.error(ErrorCode::io_failure, "cannot be written");
  }
  return dataset;
}

void write_counts(const hdf5::Node& group, const std::string& name, const std::vector<std::int64_t>& values) {
  const hdf5::Node dataset = group.create_dataset(name, H5T_STD_I64LE, {values.size()});
  if (!values.empty() && H5Dwrite(dataset.id(), H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0) {
    throw dataset.error(ErrorCode::io_failure, "cannot be written");
  }
}

void write_provenance(const hdf5::Node& root, const Provenance& provenance, bool complete) {
  const hdf5::Node group = root.create_group("provenance");
  group.set_attribute("evictsim_version", std::string(version()));
  group.set_attribute("command_line", provenance.command_line);
  group.set_attribute("seed", static_cast<std::int64_t>(provenance.seed));
  group.set_attribute("created", provenance.created);
  group.set_attribute("complete", std::int64_t{complete ? 1 : 0});
  const hdf5::Node inputs = group.create_group("inputs");
  using Input = Provenance::Input;
  write_texts(inputs, "path", column(provenance.inputs, [](const Input& input) { return input.path; }));
  write_texts(inputs, "checksum", column(provenance.inputs, [](const Input& input) { return input.checksum; }));
  write_texts(inputs, "model", column(provenance.inputs, [](const Input& input) { return input.model; }));
}

std::string group_name(std::string text) {
  std::replace(text.begin(), text.end(), '/', '|');
  return text;
}

namespace {

/// Makes the soft link `place`, "a/b" for b in the group a. HDF5 would create the groups between by itself, with their
/// times in them, and two writes of the same data would differ.
void link_below(const hdf5::Node& group, const std::string& place, const std::string& target) {
  const std::size_t slash = place.find('/');
  if (slash == std::string::npos) {
    // Without the link the group is still there, under its own name.
    H5Lcreate_soft(target.c_str(), group.id(), place.c_str(), H5P_DEFAULT, H5P_DEFAULT);
  } else if (slash == 0) {
    link_below(group, place.substr(1), target);
  } else {
    link_below(group_in(group, place.substr(0, slash)), place.substr(slash + 1), target);
  }
}

}  // namespace

void link_text(const hdf5::Node& root, const std::string& text) {
  if (text.find('/') != std::string::npos) link_below(root, text, "/" + group_name(text));
}

}  // namespace evictsim::analysis

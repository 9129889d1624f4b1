#pragma once
/// \file
/// What the writers of result files share. Internal to analysis/run_file*.

#include <cstdint>
#include <filesystem>
#include <string>
#include <type_traits>
#include <vector>

#include "analysis/run_file.h"
#include "analysis/run_file_events.h"
#include "analysis/run_file_profile.h"
#include "traces/hdf5_handle.h"

namespace evictsim::analysis {

/// An HDF5 file under a temporary name beside its final one. Every member expects a hdf5::Guard to be held, except for
/// the destructor.
class PendingFile {
 public:
  explicit PendingFile(const std::filesystem::path& path);
  ~PendingFile();
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;

  [[nodiscard]] const traces::hdf5::Node& root() const { return root_; }
  /// Closes, syncs, renames, and syncs the folder.
  void seal();

 private:
  std::filesystem::path path_, temporary_;
  traces::hdf5::Node root_;
};

/// The group `name` of `parent`, created if it is not there.
traces::hdf5::Node group_in(const traces::hdf5::Node& parent, const std::string& name);
/// A dataset of variable-length UTF-8 strings.
void write_texts(const traces::hdf5::Node& group, const std::string& name, const std::vector<std::string>& values);
/// A dataset of int64.
void write_counts(const traces::hdf5::Node& group, const std::string& name, const std::vector<std::int64_t>& values);
/// A dataset of float64 of any shape; returned for attributes.
traces::hdf5::Node write_array(const traces::hdf5::Node& group, const std::string& name,
                               const std::vector<std::size_t>& shape, const std::vector<double>& values);
/// `/provenance`: version, command line, seed, time and inputs. `complete`: the work came to its end.
void write_provenance(const traces::hdf5::Node& root, const Provenance& provenance, bool complete);
/// `/profile`.
void write_profile(const traces::hdf5::Node& root, const ProfileColumns& columns);
/// `/events`.
void write_events(const traces::hdf5::Node& root, const EventColumns& columns);
/// `get` of every element.
template <typename Element, typename Get>
auto column(const std::vector<Element>& elements, Get get) {
  std::vector<std::decay_t<decltype(get(elements.front()))>> values;
  values.reserve(elements.size());
  for (const Element& element : elements) values.push_back(get(element));
  return values;
}

/// The name of a group for a policy: its text, with '|' for '/', which HDF5 would take as a path.
std::string group_name(std::string text);
/// Where a policy's text holds '/': a soft link, so that the text as it stands leads to its group under `root` as a
/// path.
void link_text(const traces::hdf5::Node& root, const std::string& text);

}  // namespace evictsim::analysis

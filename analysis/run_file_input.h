#pragma once
/// \file
/// What the readers of result files share. Internal to analysis/. Every function
/// but format_of expects a hdf5::Guard to be held, and throws Error(missing_data, wrong_type, not_a_trace) naming file
/// and dataset.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "analysis/run_file.h"
#include "traces/hdf5_handle.h"

namespace evictsim::analysis {

/// Opens a result file whose root says `format`, in a version that this program knows. `made_by` says what writes such
/// files: "`evictsim replay -o run.h5`". Throws Error(file_not_found, permission_denied, not_a_trace,
/// unsupported_version).
traces::hdf5::Node open_result(const std::filesystem::path& path, const std::string& format,
                               const std::string& made_by);

/// What the root of an HDF5 file says about its format; empty where it says nothing. Throws Error as above.
std::string format_of(const std::filesystem::path& path);

/// All values of a dataset of one axis, or of `columns` columns.
std::vector<double> read_reals(const traces::hdf5::Node& group, const std::string& name);
std::vector<std::int64_t> read_counts(const traces::hdf5::Node& group, const std::string& name);
std::vector<std::int32_t> read_integers(const traces::hdf5::Node& group, const std::string& name,
                                        std::size_t columns = 0);
std::vector<std::string> read_texts(const traces::hdf5::Node& group, const std::string& name);
/// Any number of axes: fills `shape`.
std::vector<double> read_array(const traces::hdf5::Node& group, const std::string& name,
                               std::vector<std::size_t>& shape);
std::vector<std::uint8_t> read_bytes(const traces::hdf5::Node& group, const std::string& name,
                                     std::vector<std::size_t>& shape);
/// What `write_provenance` wrote.
RecordedProvenance read_provenance(const traces::hdf5::Node& root);

/// `/rows` of a run file; columns that an older evictsim did not write are not available.
std::vector<RunRow> read_rows(const traces::hdf5::Node& root);

}  // namespace evictsim::analysis

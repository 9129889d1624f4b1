#pragma once
/// \file
/// Weights that several trace files share: an HDF5 file beside them, to which external links in their /model lead
/// (docs/trace-format.md, "Many files"). Internal to traces/.

#include <filesystem>
#include <string>

#include "traces/hdf5_handle.h"

namespace evictsim::traces {

/// The root attribute `format` of such a file.
inline constexpr const char* model_record_format = "evictsim-model-record";

/// The file's name for its checksum: different weights never share a name.
std::string model_record_name(const std::string& checksum);
bool is_model_record_name(const std::string& name);
/// The group with layer_XXX, unembedding and final_norm of a trace: its /model, or the root of the record that it links
/// to. Throws Error: file_not_found (the record is missing), not_a_trace, wrong_type (links to anywhere else). A Guard
/// must be held.
hdf5::Node open_weights(const hdf5::Node& root, const std::filesystem::path& trace);

}  // namespace evictsim::traces

#pragma once
/// \file
/// The parts of a trace that writer and slicer write alike. Internal to traces/.

#include <string>
#include <vector>

#include "traces/hdf5_handle.h"
#include "traces/header.h"

namespace evictsim::traces {

/// Root attributes and the small datasets of /model.
void write_header(const hdf5::Node& root, const hdf5::Node& model, const Header& header);
/// Attributes, positions and spans of a sequence.
void write_sequence_info(const hdf5::Node& sequence, const SequenceInfo& info);
/// positions and chunk of `second_pass`.
void write_second_pass_rows(const hdf5::Node& group, const SecondPass& rows);
/// A dataset [m, 2] of pairs.
void write_pairs(const hdf5::Node& group, const std::string& name, const std::vector<Span>& pairs);
/// Rows per chunk for rows of that size.
std::size_t rows_per_chunk(std::size_t row_bytes);

}  // namespace evictsim::traces

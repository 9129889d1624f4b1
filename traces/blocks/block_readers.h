#pragma once
/// \file
/// One reader for each format of block traces. Internal to traces/blocks/.

#include <filesystem>

#include "traces/blocks/block_trace.h"

namespace evictsim::traces {

/// Fill all but `name` of a trace whose file is known to be readable.
BlockTrace read_mooncake_blocks(const std::filesystem::path& path, BlockLookup lookup);
BlockTrace read_csv_blocks(const std::filesystem::path& path);
BlockTrace read_oracle_general(const std::filesystem::path& path);

}  // namespace evictsim::traces

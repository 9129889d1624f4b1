#pragma once
/// \file
/// Integers of a trace file, held against their bounds. Internal to traces/.

#include <cstdint>
#include <vector>

#include "traces/hdf5_handle.h"

namespace evictsim::traces {

/// The dataset's integers, each within [smallest, largest]; throws `rule` for others.
std::vector<std::int32_t> bounded(const hdf5::Node& dataset, std::int64_t smallest, std::int64_t largest,
                                  const char* rule);

}  // namespace evictsim::traces

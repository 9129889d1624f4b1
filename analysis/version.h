#pragma once
/// \file
/// The version of this build.

namespace evictsim::analysis {

/// "0.1.0": what result files record and `--version` prints.
const char* version() noexcept;

}  // namespace evictsim::analysis

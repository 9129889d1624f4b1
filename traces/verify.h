#pragma once
/// \file
/// Holds a trace against every rule of the format (docs/trace-format.md, "Rules").

#include <filesystem>
#include <string>
#include <vector>

#include "traces/error.h"

namespace evictsim::traces {

/// One broken rule.
struct Fault {
  ErrorCode code{};
  std::string file, dataset, rule;
  std::string line;  ///< all of it as one line
};

struct VerifyOptions {
  /// Query rows per layer, spread evenly, whose attention is recomputed for every head; 0: none.
  int sampled_rows = 4;
  /// Whether k, v, q are read and checked for NaN and infinity (needed for the sampled rows).
  bool tensors = true;
};

/// Every fault of a trace file, or of the shards and the manifest of a directory; empty when there is none. Does not
/// stop at the first fault where it can go on. Throws only what has nothing to do with the trace (out of memory).
std::vector<Fault> verify(const std::filesystem::path& path, const VerifyOptions& options = {});

}  // namespace evictsim::traces

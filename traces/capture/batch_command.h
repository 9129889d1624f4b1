#pragma once
/// \file
/// `evictsim-capture run` into a directory of shards: runs the batch and tells the user about it.

#include <filesystem>
#include <string>

namespace evictsim::traces::capture {

class BatchCapture;

/// Returns the exit status: 0 when every prompt is in the directory, 1 when some failed, 130 when it was interrupted.
/// `source` names the file of the prompts, for messages.
int run_batch(BatchCapture& batch, const std::filesystem::path& directory, const std::string& source);

}  // namespace evictsim::traces::capture

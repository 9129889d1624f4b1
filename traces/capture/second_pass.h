#pragma once
/// \file
/// The second reading of a context that KVzip (arXiv 2505.23416) and KVCompose (arXiv 2509.05165) look at: chunk by
/// chunk the model is asked to repeat the context, and reads the chunk again behind the whole cache.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "traces/header.h"

namespace evictsim::traces::capture {

/// What is read. The defaults are KVzip's.
struct SecondPassPlan {
  std::int32_t chunk = 2048;  ///< tokens; 0: the whole range at once
  std::optional<Span> range;  ///< of the prompt's tokens; absent: the whole prompt
  /// Read before the first chunk, and before every later one, there followed by the last `tail` tokens of the chunk
  /// before. May be empty.
  std::string first_request = "\n\nRepeat the previous context exactly.";
  std::string next_request = "\n\nRepeat the part of the previous context exactly, starting with ";
  std::int32_t tail = 8;
};

/// One pass: tokens behind the prompt, all of which ask for one chunk.
struct ChunkPass {
  Span chunk;
  std::vector<std::int32_t> tokens;  ///< request, then the chunk
};

/// The passes over `prompt`. Throws Error(invalid_argument) where the range or a number is wrong.
std::vector<ChunkPass> plan_second_pass(const SecondPassPlan& plan, const std::vector<std::int32_t>& prompt,
                                        const std::function<std::vector<std::int32_t>(const std::string&)>& tokenize);

/// What the format says of their rows: every pass stands behind the prompt at the same positions.
SecondPass rows_of(const std::vector<ChunkPass>& passes, std::int32_t prompt_length);

}  // namespace evictsim::traces::capture

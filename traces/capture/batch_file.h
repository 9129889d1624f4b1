#pragma once
/// \file
/// Many prompts in one file: a JSON object a line (docs/capture.md, "Many prompts").

#include <cstddef>
#include <string>
#include <vector>

#include "traces/capture/capture_plan.h"

namespace evictsim::traces::capture {

struct BatchEntry {
  std::size_t line = 0;  ///< in its file, from 1 on
  SequencePlan sequence;
};

/// Reads `text`, the contents of `file`; empty lines are passed over. What a line does not say is as in `defaults`; a
/// line without id is called line-000012 after its number. Throws Error(invalid_argument) naming the first line that is
/// wrong: no JSON object, an unknown key, a value of another type, an id that was there before.
std::vector<BatchEntry> parse_batch(const std::string& text, const std::string& file, const SequencePlan& defaults);

}  // namespace evictsim::traces::capture

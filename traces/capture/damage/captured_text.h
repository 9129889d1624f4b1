#pragma once
/// \file
/// A text as the model reads it, recorded as a trace with everything that a closed loop needs.

#include <filesystem>
#include <optional>

#include "traces/capture/capture_plan.h"
#include "traces/capture/captured_model.h"
#include "traces/reader.h"

namespace evictsim::traces::capture {

/// What is recorded: every layer and query, in float32, with W_O. `hidden`: also x.
RecordPlan everything(bool hidden);

/// The trace of a text; removed with the object unless it was given a place to stay.
class CapturedText {
 public:
  /// Records `text` into `directory` under its id, or, where that is empty, into a temporary file. Throws Error;
  /// invalid_argument when nothing follows the prompt.
  CapturedText(const CapturedModel& model, const SequencePlan& text, const std::filesystem::path& directory,
               const RunControl& control);
  CapturedText(const CapturedText&) = delete;
  CapturedText& operator=(const CapturedText&) = delete;
  ~CapturedText();
  [[nodiscard]] const Reader& reader() const { return *reader_; }
  [[nodiscard]] bool stays() const { return temporary_.empty(); }

 private:
  std::filesystem::path temporary_;
  std::optional<Reader> reader_;
};

}  // namespace evictsim::traces::capture

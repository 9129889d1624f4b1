#include "traces/capture/damage/captured_text.h"

#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

#include "traces/capture/llama_capture.h"
#include "traces/capture/planned_sequence.h"
#include "traces/error.h"
#include "traces/file_system.h"

namespace evictsim::traces::capture {
namespace {

/// A new directory for temporary files.
std::filesystem::path make_temporary() {
  std::string name = (std::filesystem::temp_directory_path() / "evictsim-capture-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw system_error(errno, name, "create a temporary directory");
  return name;
}

/// A file name for any id.
std::string file_name(std::string id) {
  std::replace(id.begin(), id.end(), '/', '_');
  return id + ".h5";
}

}  // namespace

RecordPlan everything(bool hidden) {
  RecordPlan record;
  record.tensor_type = TensorType::float32;
  record.hidden = hidden;
  return record;
}

CapturedText::CapturedText(const CapturedModel& model, const SequencePlan& text, const std::filesystem::path& directory,
                           const RunControl& control) {
  const PlannedSequence sequence = plan_sequence(text, model);
  if (directory.empty()) {
    temporary_ = make_temporary();
  } else {
    std::error_code failure;
    std::filesystem::create_directories(directory, failure);
    if (failure) throw system_error(failure.value(), directory, "create the directory");
  }
  const std::filesystem::path path = (temporary_.empty() ? directory : temporary_) / file_name(text.id);
  try {
    capture_to_file(model, text, sequence, path, control);
    reader_.emplace(path);
    const SequenceInfo& info = reader_->sequences().front();
    if (info.length == info.prompt_length) {
      throw Error(ErrorCode::invalid_argument,
                  "nothing follows the prompt: the model ends its answer at once, or no rows were asked for",
                  {.parameter = "prompt", .value = text.id});
    }
  } catch (...) {
    std::error_code ignored;
    if (!temporary_.empty()) std::filesystem::remove_all(temporary_, ignored);
    throw;
  }
}

CapturedText::~CapturedText() {
  reader_.reset();
  std::error_code ignored;
  if (!temporary_.empty()) std::filesystem::remove_all(temporary_, ignored);
}

}  // namespace evictsim::traces::capture

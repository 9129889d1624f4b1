#pragma once
/// \file
/// One sequence as the model reads it: tokens, spans, and the passes beside it.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "traces/capture/capture_plan.h"
#include "traces/header.h"
#include "traces/packets.h"

namespace evictsim::traces::capture {

class CapturedModel;

/// A sequence whose plan has been checked against a model.
struct PlannedSequence {
  std::string id;
  std::string text;  ///< as given to the tokenizer; empty for token ids
  std::vector<std::int32_t> prompt;
  std::optional<std::vector<std::int32_t>> continuation;  ///< teacher-forced; absent: greedy
  int decode = 0;                                         ///< greedy tokens at most
  bool ignore_end = false;
  std::optional<std::string> task;
  std::map<std::string, std::vector<Span>> spans;
  std::vector<ChunkPass> second_pass;
  std::optional<Wrapper> wrapper;  ///< of packets; without any row: documents are recorded bare only

  [[nodiscard]] std::int32_t prompt_length() const { return static_cast<std::int32_t>(prompt.size()); }
  /// The documents recorded alone, between `boundaries`.
  [[nodiscard]] Packets packets(const Wrapper& boundaries) const;
};

/// Throws Error naming what the model cannot take: a prompt that does not fit its context, a snippet that does not
/// occur.
PlannedSequence plan_sequence(const SequencePlan& plan, const CapturedModel& model);

/// How sequences go on and whether they are wrapped, as settings for the trace: "by prompt" where they differ.
std::map<std::string, std::string> settings_of(const std::vector<const SequencePlan*>& plans);

}  // namespace evictsim::traces::capture

#pragma once
/// \file
/// Hands the rows of forward steps to the sink. Shared by the front ends of this tree.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "traces/capture/row_batch.h"
#include "traces/capture/step_rows.h"
#include "traces/header.h"

namespace evictsim::traces::capture {

class Sink;

/// Records one request of a sink that knows its model.
class SinkRecorder {
 public:
  /// Of `header`, the captured layers and the geometry are looked at.
  SinkRecorder(Sink& sink, std::string request_id, const Header& header, std::int32_t prompt_length);

  /// The next rows of the sequence, which are `tokens`. Throws Error(invalid_value) for what cannot be stored.
  void add(const StepRows& step, std::span<const std::int32_t> tokens);
  /// The next rows of a pass beside it, announced to the sink before the first step of the sequence.
  void add(Pass pass, const StepRows& step);

 private:
  void push(std::span<const float> values, Role role, int layer, std::vector<std::int64_t> shape);
  void push_attention(const StepRows& step, std::size_t captured);
  void push_sequence(const StepRows& step);
  /// Pushes inside the open step, and ends it whatever happens.
  template <typename Push>
  void finish_step(Push&& push_all);

  Sink& sink_;
  std::string request_;
  std::vector<int> layers_;
  std::int64_t query_heads_, kv_heads_, width_, hidden_, vocabulary_;
  std::int32_t prompt_length_;
  std::array<std::int32_t, pass_count> begun_{};  ///< rows of each pass that were begun
};

}  // namespace evictsim::traces::capture

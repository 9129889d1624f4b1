#pragma once
/// \file
/// A model that reads a prompt once and runs the rows behind it any number of times, with its attention changed.

#include <cstdint>
#include <span>
#include <vector>

#include "traces/capture/capture_plan.h"
#include "traces/capture/captured_model.h"
#include "traces/capture/llama_engine.h"
#include "traces/capture/node_collector.h"

namespace evictsim::traces::capture {

class Continuation {
 public:
  /// Reads the prompt, `tokens` up to `prompt_length`. Every layer must be captured; `model` must outlive this.
  /// `with_input`: what enters layers is collected too.
  /// Throws Error: interrupted, and what the engine does.
  Continuation(const CapturedModel& model, std::span<const std::int32_t> tokens, std::int32_t prompt_length,
               bool with_input, const RunControl& control);
  Continuation(const Continuation&) = delete;
  Continuation& operator=(const Continuation&) = delete;

  /// Runs the rows behind the prompt as one forward step. Returns their logits [R, vocab], valid until the next call.
  /// Throws what `hook` throws, and Error(unsupported) when the engine cannot take entries out of its cache, or does
  /// not let attention output be written.
  std::span<const float> run(const AttentionHook& hook = {});
  /// Inside the hook: what enters a layer, [R, D]; empty unless collected.
  [[nodiscard]] std::span<const float> layer_input(std::size_t layer) const { return collector_.entering(layer); }

 private:
  void read_prompt(std::span<const std::int32_t> prompt, int step, const RunControl& control);

  std::vector<std::int32_t> rows_;
  std::int32_t prompt_length_;
  NodeCollector collector_;
  LlamaContext context_;
};

}  // namespace evictsim::traces::capture

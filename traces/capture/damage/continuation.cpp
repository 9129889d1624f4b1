#include "traces/capture/damage/continuation.h"

#include <algorithm>

namespace evictsim::traces::capture {
namespace {

/// All rows behind the prompt go through the model at once.
EngineSettings with_room_for(EngineSettings engine, std::size_t rows) {
  engine.ubatch = std::max(engine.ubatch, static_cast<int>(rows));
  return engine;
}

CollectorPlan attention_of(const CapturedModel& model, bool with_input) {
  CollectorPlan plan = model.collector_plan();
  plan.residual = with_input;
  plan.attention_output = false;
  return plan;
}

}  // namespace

Continuation::Continuation(const CapturedModel& model, std::span<const std::int32_t> tokens, std::int32_t prompt_length,
                           bool with_input, const RunControl& control)
    : rows_(tokens.begin() + prompt_length, tokens.end()),
      prompt_length_(prompt_length),
      collector_(attention_of(model, with_input)),
      context_(model.model(), with_room_for(model.engine(), rows_.size()), static_cast<std::int32_t>(tokens.size()),
               &collector_) {
  read_prompt(tokens.first(static_cast<std::size_t>(prompt_length)), model.engine().ubatch, control);
}

void Continuation::read_prompt(std::span<const std::int32_t> prompt, int step, const RunControl& control) {
  const auto most = static_cast<std::size_t>(step);
  for (std::size_t first = 0; first < prompt.size(); first += most) {
    control.require_running();
    const auto tokens = prompt.subspan(first, std::min(most, prompt.size() - first));
    collector_.begin_step(static_cast<std::int32_t>(first), static_cast<std::int32_t>(tokens.size()));
    context_.decode(tokens, static_cast<std::int32_t>(first));
    collector_.finish_step();
  }
}

std::span<const float> Continuation::run(const AttentionHook& hook) {
  collector_.set_attention_hook(hook);
  context_.forget(prompt_length_);
  collector_.begin_step(prompt_length_, static_cast<std::int32_t>(rows_.size()));
  const auto logits = context_.decode(rows_, prompt_length_);
  collector_.finish_step();
  return logits;
}

}  // namespace evictsim::traces::capture

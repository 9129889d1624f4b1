#include "traces/capture/planned_sequence.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "traces/capture/captured_model.h"
#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

[[noreturn]] void refuse(const std::string& message, const char* parameter, std::string value = {}) {
  throw Error(ErrorCode::invalid_argument, message, {.parameter = parameter, .value = std::move(value)});
}

void read_prompt(const SequencePlan& plan, const CapturedModel& captured, PlannedSequence& sequence) {
  const LlamaModel& model = captured.model();
  if (!plan.prompt_tokens.empty()) {
    sequence.prompt = plan.prompt_tokens;
  } else {
    sequence.text = plan.chat_template ? model.apply_chat_template(plan.system, plan.prompt) : plan.prompt;
    sequence.prompt = model.tokenize(sequence.text, true, plan.chat_template);
  }
  if (plan.continuation) {
    sequence.continuation = model.tokenize(*plan.continuation, false, false);
    if (sequence.continuation->empty()) refuse("the continuation is empty", "continuation");
  } else if (!plan.continuation_tokens.empty()) {
    sequence.continuation = plan.continuation_tokens;
  }
  if (sequence.prompt.empty()) refuse("the prompt is empty", "prompt");
  captured.require_tokens(sequence.prompt);
  if (sequence.continuation) captured.require_tokens(*sequence.continuation);
}

void plan_second_pass(const SequencePlan& plan, const CapturedModel& captured, PlannedSequence& sequence) {
  if (!captured.record().second_pass) {
    if (plan.second_pass_range) refuse("says what a second pass reads; add --second-pass", "second_pass_range");
    return;
  }
  SecondPassPlan pass = *captured.record().second_pass;
  if (plan.second_pass_range) pass.range = plan.second_pass_range;
  sequence.second_pass = capture::plan_second_pass(pass, sequence.prompt,
                                                   [&](const std::string& text) { return captured.tokens_of(text); });
  for (const ChunkPass& chunk : sequence.second_pass) captured.require_tokens(chunk.tokens);
}

void plan_packets(const CapturedModel& captured, PlannedSequence& sequence) {
  if (!captured.record().packets) return;
  const Header& header = captured.header();
  sequence.wrapper = make_wrapper(*captured.record().packets, header.hidden_size, header.vocab_size,
                                  [&](const std::string& text) { return captured.tokens_of(text); });
}

}  // namespace

Packets PlannedSequence::packets(const Wrapper& boundaries) const {
  const auto found = spans.find("document");
  return packets_of(found == spans.end() ? std::vector<Span>() : found->second, prompt_length(), boundaries);
}

PlannedSequence plan_sequence(const SequencePlan& plan, const CapturedModel& captured) {
  if (plan.decode < 0) refuse("the number of tokens to decode is negative", "decode", std::to_string(plan.decode));
  PlannedSequence sequence;
  sequence.id = plan.id;
  sequence.task = plan.task;
  sequence.ignore_end = plan.ignore_end;
  read_prompt(plan, captured, sequence);
  sequence.decode = sequence.continuation ? static_cast<int>(sequence.continuation->size()) : plan.decode;
  const auto context = static_cast<std::size_t>(captured.model().context_length());
  const std::size_t length = sequence.prompt.size() + static_cast<std::size_t>(sequence.decode);
  if (length > context) {
    refuse(fmt::format("{} prompt tokens and {} to decode do not fit into the model's context of {}",
                       sequence.prompt.size(), sequence.decode, context),
           "prompt");
  }
  captured.require_known_windows(length);
  std::vector<std::string> pieces;
  for (const std::int32_t token : sequence.prompt) pieces.push_back(captured.model().piece(token));
  sequence.spans = locate_spans(plan.spans, pieces);
  plan_second_pass(plan, captured, sequence);
  plan_packets(captured, sequence);
  const auto require_context = [&](std::size_t tokens, const char* parameter) {
    if (tokens <= context) return;
    refuse(fmt::format("{} tokens do not fit into the model's context of {}", tokens, context), parameter);
  };
  for (const ChunkPass& pass : sequence.second_pass) {
    require_context(sequence.prompt.size() + pass.tokens.size(), "second-pass");
  }
  if (sequence.wrapper) {
    const Packets packets = sequence.packets(*sequence.wrapper);
    require_context(static_cast<std::size_t>(entries_needed(packets, static_cast<std::int32_t>(length))), "packets");
  }
  return sequence;
}

std::map<std::string, std::string> settings_of(const std::vector<const SequencePlan*>& plans) {
  const auto common = [&](bool (*is)(const SequencePlan&), const char* yes, const char* no) {
    const auto count = std::count_if(plans.begin(), plans.end(), [is](const SequencePlan* plan) { return is(*plan); });
    if (count == 0) return std::string(no);
    return std::string(static_cast<std::size_t>(count) == plans.size() ? yes : "by prompt");
  };
  return {{"capture_decoding",
           common([](const SequencePlan& plan) { return plan.is_greedy(); }, "greedy", "teacher_forced")},
          {"capture_chat_template", common([](const SequencePlan& plan) { return plan.chat_template; }, "yes", "no")}};
}

}  // namespace evictsim::traces::capture

#pragma once
/// \file
/// Captures a trace from a model that llama.cpp runs on the CPU. docs/capture.md tells the whole story.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "traces/capture/attention_check.h"
#include "traces/capture/gguf_file.h"
#include "traces/capture/llama_engine.h"
#include "traces/capture/packet_pass.h"
#include "traces/capture/second_pass.h"
#include "traces/capture/spans.h"
#include "traces/capture/trace_recorder.h"
#include "traces/header.h"

namespace evictsim::traces::capture {

/// What the model reads and how it goes on.
struct SequencePlan {
  std::string prompt;                             ///< text; ignored when `prompt_tokens` is not empty
  std::vector<std::int32_t> prompt_tokens;        ///< ids, for models without tokenizer or to compare engines
  bool chat_template = false;                     ///< wrap the prompt as one user message
  std::string system;                             ///< system message of the chat template; empty: none
  int decode = 64;                                ///< greedy tokens, unless a continuation is given
  bool ignore_end = false;                        ///< go on behind the model's end-of-answer token
  std::optional<std::string> continuation;        ///< teacher-forced text, one token per step
  std::vector<std::int32_t> continuation_tokens;  ///< the same as ids
  std::vector<SpanRequest> spans;
  std::optional<std::string> task;
};

/// What is written.
struct RecordPlan {
  std::vector<int> layers;  ///< ascending; empty: all
  QueryRows query_rows;
  TensorType tensor_type = TensorType::float16;
  bool hidden = false;              ///< x
  bool output_weights = true;       ///< w_o
  bool store_text = false;          ///< the prompt's text
  bool check = true;                ///< compare recomputed attention with the engine's own
  std::optional<double> tolerance;  ///< of the check; absent: 1e-5 when everything is float32, else 2e-2
  bool measure_overhead = false;
  std::optional<SecondPassPlan> second_pass;  ///< read the context once more behind the prompt
  std::optional<PacketPlan> packets;          ///< read every document of the spans alone
};

struct CapturePlan {
  std::filesystem::path model;
  EngineSettings engine;
  SequencePlan sequence;
  RecordPlan record;
};

/// Tokens per second of one pass over the sequence.
struct Speed {
  double prefill = 0;
  double decode = 0;  ///< 0 when there are no decode rows
  double seconds = 0;
};

/// What a capture did.
struct CaptureReport {
  std::int32_t prompt_length = 0;
  std::int32_t length = 0;
  std::string continuation;         ///< text of the decode rows
  Speed captured;                   ///< writing included
  std::optional<Speed> uncaptured;  ///< with measure_overhead
  std::optional<double> overhead;   ///< slow-down factor of the callbacks, writing excluded
  std::optional<AttentionCheckResult> check;
  double tolerance = 0;
};

/// One capture: construct (loads, checks the model and the plan), then run.
class LlamaCapture {
 public:
  /// Throws Error naming what is wrong with the model, the prompt or the plan.
  explicit LlamaCapture(CapturePlan plan);

  /// The trace's header; complete after construction.
  [[nodiscard]] const Header& header() const { return header_; }
  /// The prompt as the model reads it.
  [[nodiscard]] const std::vector<std::int32_t>& prompt() const { return prompt_; }

  /// Called with (rows done, rows in all) while the captured pass runs.
  using Progress = std::function<void(std::int32_t, std::int32_t)>;
  /// Writes the trace to `output`, then checks it. When the check fails the file is renamed to `output` + ".rejected"
  /// and Error(invalid_value) is thrown.
  CaptureReport run(const std::filesystem::path& output, const Progress& progress = {});

 private:
  void read_prompt();
  void plan_other_passes();
  void require_tokens(const std::vector<std::int32_t>& tokens) const;
  [[nodiscard]] std::vector<std::int32_t> tokens_of(const std::string& text) const;
  void fill_geometry();
  void fill_from_graph();
  void fill_sliding_windows();
  void fill_settings();
  [[nodiscard]] CollectorPlan collector_plan() const;
  [[nodiscard]] std::vector<std::int32_t> continue_prompt() const;
  Speed measure(const std::vector<std::int32_t>& tokens, NodeCollector* collector) const;
  void record_second_pass(LlamaContext& context, NodeCollector& collector, TraceRecorder& recorder) const;
  void record_packets(const std::vector<std::int32_t>& tokens, TraceRecorder& recorder) const;
  [[nodiscard]] Recording recording(const std::vector<std::int32_t>& tokens) const;
  void write_weights(TraceRecorder& recorder) const;
  [[nodiscard]] std::vector<std::int32_t> rows_to_check(std::int32_t length) const;
  void judge(CaptureReport& report, const AttentionCheck& check, const std::filesystem::path& output) const;
  void require_greedy(const SideChannels& channels, const std::vector<std::int32_t>& tokens) const;
  [[nodiscard]] bool is_greedy() const;

  CapturePlan plan_;
  GgufFile file_;
  LlamaModel model_;
  Header header_;
  std::string text_;  // the prompt as given to the tokenizer
  std::vector<std::int32_t> prompt_;
  std::map<std::string, std::vector<Span>> spans_;
  bool has_after_attention_ = true;
  std::vector<ChunkPass> second_pass_;
  std::optional<Wrapper> wrapper_;  // of packets; without any row: documents are recorded bare only
};

}  // namespace evictsim::traces::capture

#pragma once
/// \file
/// What to capture from llama.cpp, and what came of it. docs/capture.md tells the whole story.

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "traces/capture/attention_check.h"
#include "traces/capture/llama_engine.h"
#include "traces/capture/packet_pass.h"
#include "traces/capture/second_pass.h"
#include "traces/capture/sink/capture_options.h"
#include "traces/capture/spans.h"
#include "traces/header.h"

namespace evictsim::traces::capture {

/// What the model reads and how it goes on.
struct SequencePlan {
  std::string id = "prompt";                      ///< the sequence's request_id
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
  std::optional<Span> second_pass_range;  ///< in place of that of the record plan

  [[nodiscard]] bool is_greedy() const { return !continuation && continuation_tokens.empty(); }
};

/// What is written.
struct RecordPlan {
  std::vector<int> layers;             ///< empty: all
  QuerySample queries;                 ///< rows of q that are kept
  std::vector<int> full_query_layers;  ///< captured layers that keep all rows even so
  TensorType tensor_type = TensorType::float16;
  bool hidden = false;              ///< x
  bool output_weights = true;       ///< w_o
  bool store_text = false;          ///< the prompt's text
  bool hash_token_ids = false;      ///< sink/token_cipher.h
  std::string token_key;            ///< of the hashed ids; empty: a random one, forgotten at the end
  bool check = true;                ///< compare recomputed attention with the engine's own
  std::optional<double> tolerance;  ///< of the check; absent: 1e-5 when everything is float32, else 2e-2
  bool measure_overhead = false;
  std::optional<SecondPassPlan> second_pass;  ///< read the context once more behind the prompt
  std::optional<PacketPlan> packets;          ///< read every document of the spans alone
  int writer_threads = 1;
  std::uint64_t shard_bytes = std::uint64_t{1} << 30;  ///< of a directory: from then on sequences go into a new shard
  std::int64_t shard_seconds = 300;                    ///< likewise
};

/// One prompt into one file.
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

/// What a capture of one sequence did.
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

/// Called with (rows done, rows in all) while the captured pass runs.
using Progress = std::function<void(std::int32_t, std::int32_t)>;

/// What a run of the engine looks at between its steps. Once `stop` is set the run ends with Error(interrupted).
struct RunControl {
  Progress progress;
  const std::atomic<bool>* stop = nullptr;  ///< null: never

  void require_running() const {
    if (stop == nullptr || !*stop) return;
    throw Error(ErrorCode::interrupted, "interrupted");
  }
};

}  // namespace evictsim::traces::capture

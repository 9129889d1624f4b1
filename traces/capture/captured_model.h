#pragma once
/// \file
/// A model that llama.cpp runs, and everything that a trace says about it: geometry, RoPE, scale, settings, weights.

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "traces/capture/capture_plan.h"
#include "traces/capture/gguf_file.h"
#include "traces/capture/llama_engine.h"
#include "traces/header.h"

namespace evictsim::traces::capture {

class Sink;

/// Loads and checks a model once; any number of sequences can then be captured with it.
class CapturedModel {
 public:
  /// Throws Error naming what is wrong with the model or the plan.
  CapturedModel(const std::filesystem::path& path, const EngineSettings& engine, RecordPlan record);

  /// The trace's header; `sliding_window` has one value per layer of the model.
  [[nodiscard]] const Header& header() const { return header_; }
  [[nodiscard]] const LlamaModel& model() const { return model_; }
  [[nodiscard]] const EngineSettings& engine() const { return engine_; }
  [[nodiscard]] const RecordPlan& record() const { return record_; }
  [[nodiscard]] const std::filesystem::path& path() const { return file_.path(); }
  /// Whether the check can be made: it needs W_O.
  [[nodiscard]] bool is_checked() const { return record_.check && record_.output_weights; }
  [[nodiscard]] double tolerance() const;

  [[nodiscard]] CollectorPlan collector_plan() const;
  /// Throws Error(unsupported) when a sequence of that length would meet a sliding window of unknown layers.
  void require_known_windows(std::size_t length) const;
  /// Throws Error(invalid_argument) for ids outside the vocabulary.
  void require_tokens(const std::vector<std::int32_t>& tokens) const;
  /// The ids of text, or those of "tokens:5,6,7"; markers such as <|im_start|> count as tokens.
  [[nodiscard]] std::vector<std::int32_t> tokens_of(const std::string& text) const;

  [[nodiscard]] CaptureOptions sink_options(bool single_file) const;
  /// Hands header, `settings` (capture_...) and weights to a sink.
  void introduce(Sink& sink, const std::map<std::string, std::string>& settings, std::optional<double> overhead) const;

 private:
  void fill_geometry();
  void fill_layers();
  void fill_from_graph();
  void fill_sliding_windows();
  void fill_settings();
  void add_weights(Sink& sink) const;

  EngineSettings engine_;
  RecordPlan record_;
  GgufFile file_;
  LlamaModel model_;
  Header header_;
  bool flash_attention_ = false;
};

}  // namespace evictsim::traces::capture

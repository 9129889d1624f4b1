#pragma once
/// \file
/// What a capture samples and how it writes: the options of evictsim_capture_open (docs/capture.md).

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "traces/capture/row_batch.h"
#include "traces/header.h"

namespace evictsim::traces::capture {

/// Which token rows keep their query; a row is kept when any part names it.
struct QuerySample {
  bool all = true;
  std::int32_t window = 0;  ///< the last rows of the prompt
  bool decode = false;      ///< every row behind the prompt
  std::int32_t stride = 0;  ///< rows 0, stride, 2 stride, ...; 0: none

  [[nodiscard]] bool keeps(std::int32_t token, std::int32_t prompt_length) const {
    return all || (decode && token >= prompt_length) || (token < prompt_length && token >= prompt_length - window) ||
           (stride > 0 && token % stride == 0);
  }
};

struct CaptureOptions {
  // What is taken.
  std::vector<int> layers;    ///< indices in the model; empty: all
  std::vector<int> kv_heads;  ///< each with its group of query heads; empty: all
  QuerySample queries;
  std::vector<int> full_query_layers;       ///< layers that keep every query even so
  bool hidden = false;                      ///< x
  std::array<bool, role_count> channels{};  ///< by role: written when it can be had
  std::int64_t every = 1;                   ///< every n-th request
  std::uint64_t bytes_per_second = 0;       ///< no new request while more is taken; 0: no limit
  bool store_text = false;
  /// The bytes that a token stands for, kept for every token with `store_text`; empty: only ids are known.
  std::function<std::string(std::int32_t)> token_text;
  bool hash_token_ids = false;
  std::string token_key;  ///< empty: a random one, forgotten at the end

  // How it is written.
  TensorType type = TensorType::float16;
  bool compress = true;
  int threads = 2;
  bool drop = false;                                   ///< when the queue is full: drop, else wait
  std::size_t queue_bytes = std::size_t{128} << 20;    ///< chunks waiting for the writers
  std::size_t memory_bytes = std::size_t{1} << 30;     ///< unfinished chunks of all requests
  std::uint64_t shard_bytes = std::uint64_t{1} << 30;  ///< then new requests go into a new shard
  std::int64_t shard_seconds = 300;                    ///< likewise
  std::size_t device_ring_bytes = std::size_t{256} << 20;
  std::size_t device_history_bytes = std::size_t{128} << 20;  ///< rows on the device that others are compared with
  std::size_t graph_ring_bytes = 0;                           ///< for tensors inside CUDA graphs
  bool check_contents = false;  ///< of what is sealed already, when a capture goes on; else sizes alone
  bool single_file = false;     ///< one trace file that appears at close, in place of a directory of shards

  CaptureOptions();  ///< every channel but cos_final, which must hold a step's residual stream of all layers
};

/// Throws Error(invalid_argument) naming the option and what would be right.
CaptureOptions parse_capture_options(const char* text);
/// Reads the option q_rows: all, none, or parts joined by + out of window:N, decode and stride:N.
/// Throws Error(invalid_argument) naming `parameter`.
QuerySample parse_query_sample(const std::string& parameter, const std::string& text);

/// A model and the part of it that is captured.
struct ModelRecord {
  Header pushed;                                    ///< as the engine's tensors are; `layers` are the captured ones
  Header stored;                                    ///< with the kept heads only; what the shards say
  std::vector<std::int32_t> query_heads, kv_heads;  ///< kept, ascending; empty: all

  /// Place of a layer among the captured ones; -1: not captured.
  [[nodiscard]] int place_of(int layer) const;
};

/// The part of a model that `options` want. Of `header`, `layers` is not looked at, and sliding_window and sensitivity
/// have one value per layer of the model, or none. Throws Error(invalid_argument, invalid_value).
ModelRecord make_model_record(Header header, const CaptureOptions& options);
/// Reads the attributes of evictsim_capture_model, then as above.
ModelRecord parse_model_record(const char* text, const CaptureOptions& options);

}  // namespace evictsim::traces::capture

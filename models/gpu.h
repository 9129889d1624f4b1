#pragma once
/// \file
/// Descriptions of GPUs: what a datasheet says or what `evictsim-capture probe` measured. One JSON format for both,
/// docs/gpu.md. Units are in the names: bytes, seconds, and rates per second.

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace evictsim::models {

/// Cost of moving bytes one way: latency + bytes / bandwidth.
struct TransferRate {
  std::optional<double> latency_seconds;  ///< not in datasheets
  double bytes_per_second = 0;
  std::optional<double> largest_relative_error;  ///< of the fit over what was measured
};

/// Time of one decode step's attention over a paged cache whose heads hold different numbers of entries:
///   launch + entries * per_entry + pages * per_page + longest * per_longest
/// with `entries` and `pages` summed over all KV heads of all sequences, and `longest` the entries of the longest head.
struct DecodeAttentionRate {
  std::string element;  ///< stored type of keys and values
  int group_size = 0;   ///< query heads per KV head
  int head_dim = 0;
  double launch_seconds = 0;
  double seconds_per_entry = 0;
  double seconds_per_page = 0;
  double seconds_per_longest_entry = 0;
  std::optional<double> largest_relative_error;
};

/// Kernel times of an engine's steps, medians over steps.
struct EngineSteps {
  std::int64_t steps = 0;
  double span_seconds = 0;  ///< from a step's first kernel to the end of its last one
  double idle_seconds = 0;  ///< of the span, without any kernel
  double attention_seconds = 0;
  double gemm_seconds = 0;
  double collective_seconds = 0;
  double other_seconds = 0;
};

/// One measured point: the median time of a quantity under conditions.
struct Measurement {
  std::string quantity;                      ///< for example "host_to_device"
  std::map<std::string, double> conditions;  ///< for example bytes
  double seconds = 0;
  double spread_seconds = 0;  ///< between the quartiles
  std::int64_t samples = 0;   ///< without warm-up
  std::int64_t outliers = 0;  ///< of the samples; left out of median and spread
};

struct Gpu {
  std::string name;                       ///< short, as in --gpu
  std::string product;                    ///< in full
  std::vector<std::string> aliases;       ///< other short names, as other tools have them
  std::vector<std::string> device_names;  ///< what drivers call it
  bool measured = false;                  ///< else all figures are published ones
  std::vector<std::string> sources;       ///< at least one
  std::string compute_capability;         ///< empty: not known
  std::optional<int> multiprocessors;

  std::int64_t memory_bytes = 0;              ///< as sold
  std::optional<std::int64_t> visible_bytes;  ///< what a program can use
  double memory_bytes_per_second = 0;         ///< reading
  std::optional<std::int64_t> l2_bytes;
  std::map<std::string, double> flops_per_second;  ///< dense, by type: f32, tf32, f16, bf16, fp8, fp4, int8

  std::optional<TransferRate> host_to_device, device_to_host;                    ///< pinned host memory
  std::optional<TransferRate> host_to_device_pageable, device_to_host_pageable;  ///< ordinary host memory
  std::optional<TransferRate> peer;                                              ///< to another GPU of the machine
  std::optional<DecodeAttentionRate> decode_attention;
  std::optional<EngineSteps> engine_steps;
  std::vector<Measurement> measurements;
};

/// Reads one description. Throws Error: file_not_found, permission_denied, invalid_value (no JSON, a number out of its
/// range), missing_data, wrong_type, unknown_name (a field that does not exist), unsupported_version; each names the
/// file and the field.
Gpu read_gpu(const std::filesystem::path& file);
/// Writes it whole or not at all. Throws Error (io_failure).
void write_gpu(const std::filesystem::path& file, const Gpu& gpu);

/// The description of that name, or with that alias, among those found when the program runs (models/data_files.h), or
/// of that path. Throws Error (unknown_name), which lists the names.
Gpu find_gpu(const std::string& name);
/// The one that lists `device_name`; none if no description does.
std::optional<Gpu> find_gpu_of_device(const std::string& device_name);

}  // namespace evictsim::models

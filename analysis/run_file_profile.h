#pragma once
/// \file
/// What run.h5 holds about the sizes of caches, `/profile`: written with every run file, and read back for the serving
/// simulation. Layout: docs/run-file.md.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "analysis/run_accumulator.h"

namespace evictsim::analysis {

/// One row of a run file and the sizes behind it.
struct RecordedCache {
  std::size_t number = 0;  ///< row of the file, from 0
  RunRow row;
  std::vector<std::int32_t> steps;   ///< token rows of the sampled decode rows
  std::vector<LayerSizes> layers;    ///< scored_entries are in `prompt_scored_entries` instead
  std::int64_t kv_heads = 0;         ///< of each layer
  double entry_bytes = 0;            ///< of a key and a value of one head
  double prompt_scored_entries = 0;  ///< for the prompt's cut, over layers and cache heads
};

/// The rows that did not fail, in the file's order. Throws Error: file_not_found; not_a_trace for what is no run file
/// or damaged; missing_data for a run file of an evictsim that wrote no `/profile`.
std::vector<RecordedCache> read_recorded_caches(const std::filesystem::path& path);

/// Columns of `/profile` on their way into a file.
struct ProfileColumns {
  // One element per row of the file.
  std::vector<std::int32_t> steps;  ///< [rows, most_sampled_steps]
  std::vector<std::int64_t> kv_heads, placed;
  std::vector<double> entry_bytes, prompt_scored_entries;
  // One element per row, layer and cache head.
  std::vector<std::int32_t> row, layer, head, kept;
  std::vector<std::int32_t> resident;  ///< [elements, most_sampled_steps]

  void add(const SequenceResult& result);
};

}  // namespace evictsim::analysis

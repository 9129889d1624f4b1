#pragma once
/// \file
/// Copies a part of a trace into a new one, bit for bit in its stored types.

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace evictsim::traces {

/// What is kept. Empty lists keep all; lists must be strictly ascending.
struct SliceOptions {
  std::vector<int> layers;             ///< indices in the model
  std::vector<int> kv_heads;           ///< each with its group of query heads and their columns of w_o
  std::vector<std::string> sequences;  ///< names; "0" and "000000" mean the same
  std::int32_t first_row = 0;          ///< token rows [first_row, last_row) of every sequence
  std::optional<std::int32_t> last_row;
};

/// Writes the slice to `output`, sealed atomically; `input` is a trace file, or a directory whose manifest names one
/// shard. Throws Error(invalid_argument) when `output` is the input itself, under whatever name, or no regular file.
/// `num_layers` and `hidden_size` stay those of the model, head counts are those kept. The range of rows must lie
/// inside the longest chosen sequence; of a shorter one the rows that it has are kept, at least one. prompt_length
/// becomes the number of prompt rows kept, at least 1. Throws Error.
void slice(const std::filesystem::path& input, const std::filesystem::path& output, const SliceOptions& options);

/// Writes the trace `input` to `output`, which may be the same file, with these values as its /model/sensitivity: one
/// per captured layer, finite and not negative, and `attributes` on how they were measured. What the trace held there
/// is replaced; weights in a model record are copied into the file. Sealed atomically; bits of tensors stay. Throws
/// Error; invalid_argument for other values, or a directory.
void store_sensitivity(const std::filesystem::path& input, const std::filesystem::path& output,
                       const std::vector<double>& values, const std::map<std::string, std::string>& attributes);

}  // namespace evictsim::traces

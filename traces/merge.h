#pragma once
/// \file
/// Makes one trace of captures that hold different heads of the same requests, as tensor-parallel ranks write them.

#include <filesystem>
#include <string>
#include <vector>

namespace evictsim::traces {

/// Root attributes that say which heads of the model a capture holds: the index of its first query head and KV head,
/// and how many of both the model has (docs/trace-format.md, "Head ranges").
inline constexpr const char* first_query_head_attribute = "capture_first_query_head";
inline constexpr const char* first_kv_head_attribute = "capture_first_kv_head";
inline constexpr const char* all_query_heads_attribute = "capture_all_query_heads";
inline constexpr const char* all_kv_heads_attribute = "capture_all_kv_heads";

struct MergeOptions {
  /// Leaves out requests that are missing in some part or have another length there; else they are an error.
  bool complete_only = false;
};

struct MergeResult {
  std::size_t sequences = 0;
  std::vector<std::string> left_out;  ///< request ids, sorted
};

/// Writes `output` from `parts`: each a trace file or a directory with a manifest, in any order. Their query heads must
/// be all of the model's, each once; KV heads that several parts hold must be equal in them. Requests are matched by
/// request_id. What does not belong to heads (x, norms, per-token channels) is taken from the part with the first heads
/// that has it. Throws Error naming the part and what differs; holds one layer of one request of all parts in memory.
MergeResult merge(const std::vector<std::filesystem::path>& parts, const std::filesystem::path& output,
                  const MergeOptions& options = {});

}  // namespace evictsim::traces

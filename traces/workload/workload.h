#pragma once
/// \file
/// Traces of requests as a serving system receives them: when, and how many tokens; no contents. docs/plan.md describes
/// the formats.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace evictsim::traces {

struct WorkloadRequest {
  double arrival_seconds = 0;      ///< not negative
  std::int64_t prompt_tokens = 0;  ///< 1 to most_tokens
  std::int64_t output_tokens = 0;  ///< 1 to most_tokens
  std::uint32_t session = 0;       ///< requests of one conversation share a number above 0; 0: none is known
  /// Names of successive blocks of `prefix_block_tokens` tokens from the first token of the prompt on. Equal names mean
  /// equal tokens up to the end of the block. The last block may reach beyond the prompt; blocks further on name the
  /// output, which a later turn of the session sends back. Empty: no prefix is known, nothing is shared.
  std::vector<std::uint64_t> prefix_blocks;
  int prefix_block_tokens = 0;  ///< above 0 where there are blocks
};

/// Of a prompt, or of an output. Sums over a trace stay far from 2^63.
inline constexpr std::int64_t most_tokens = std::int64_t{1} << 31U;

enum class WorkloadFormat {
  azure,          ///< Azure LLM inference traces: TIMESTAMP,ContextTokens,GeneratedTokens
  mooncake,       ///< JSON lines: timestamp (ms), input_length, output_length, hash_ids of 512 tokens
  qwen_bailian,   ///< JSON lines as Mooncake's, with chat_id, seconds and blocks of 16 tokens
  burst_gpt,      ///< BurstGPT: Timestamp,[Session ID,Elapsed time,]Model,Request tokens,Response tokens,...
  llmservingsim,  ///< arrival_time_ns, input_toks, output_toks, as JSON lines or CSV
  csv,            ///< arrival, prompt, output[, session], by the names in docs/plan.md or by place
};
const char* to_string(WorkloadFormat format) noexcept;

struct Workload {
  std::string name;  ///< file name without folders
  WorkloadFormat format = WorkloadFormat::csv;
  std::vector<WorkloadRequest> requests;  ///< by arrival; the first arrives at 0, for times count from there
  std::size_t failed = 0;                 ///< rows left out: BurstGPT's, of requests that got no answer
};

/// Reads all of a trace; its format is known by its first line. Throws Error: file_not_found, permission_denied,
/// io_failure; unsupported for a first line of no format; unknown_name for a column or field that the format does not
/// have; missing_data, wrong_type and invalid_value naming file and line, for damaged lines, times that are negative or
/// go back, tokens that are no whole number from 1 to most_tokens, and a file without requests.
Workload read_workload(const std::filesystem::path& path);

struct RequestLengths {
  std::int64_t prompt_tokens = 0, output_tokens = 0;
};

/// The lengths alone, in the order of the file: of a workload, or of a CSV file without times. Errors as above.
std::vector<RequestLengths> read_lengths(const std::filesystem::path& path);

}  // namespace evictsim::traces

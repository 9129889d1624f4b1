#include "traces/blocks/block_trace.h"

#include "traces/blocks/block_readers.h"
#include "traces/error.h"
#include "traces/file_system.h"

namespace evictsim::traces {
namespace {

BlockTraceFormat format_of(const std::filesystem::path& path) {
  const std::string extension = path.extension().string();
  if (extension == ".jsonl") return BlockTraceFormat::mooncake;
  if (extension == ".csv") return BlockTraceFormat::csv;
  if (extension == ".oracleGeneral" || extension == ".bin") return BlockTraceFormat::oracle_general;
  throw Error(
      ErrorCode::unsupported,
      "the name tells no format of block traces: expected .jsonl (Mooncake), .csv, .oracleGeneral or .bin, or a "
      "format that is named",
      {.file = path.string()});
}

BlockTrace read(const std::filesystem::path& path, BlockTraceFormat format, BlockLookup lookup) {
  switch (format) {
    case BlockTraceFormat::mooncake:
      return read_mooncake_blocks(path, lookup);
    case BlockTraceFormat::csv:
      return read_csv_blocks(path);
    default:
      return read_oracle_general(path);
  }
}

}  // namespace

BlockTrace read_block_trace(const std::filesystem::path& path, BlockTraceFormat format, BlockLookup lookup) {
  readable_file_size(path);
  BlockTrace trace = read(path, format == BlockTraceFormat::automatic ? format_of(path) : format, lookup);
  trace.name = path.filename().string();
  if (trace.references.empty()) {
    throw Error(ErrorCode::missing_data, "holds no references", {.file = path.string()});
  }
  return trace;
}

}  // namespace evictsim::traces

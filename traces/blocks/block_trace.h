#pragma once
/// \file
/// Traces of references to blocks or other objects, as block caches see them: no contents, only which object is asked
/// for, in order. docs/cache.md describes the formats.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace evictsim::traces {

/// Objects of a trace are numbered 0, 1, 2, ... in the order in which the file names them first.
using Object = std::uint32_t;

struct BlockTrace {
  std::string name;  ///< file name without folders
  std::vector<Object> references;
  /// Where each request ends among the references, ascending; empty: every reference is a request of its own. A request
  /// is looked up as a whole, and then its objects are referenced one after the other.
  std::vector<std::size_t> request_ends;
  std::vector<std::uint64_t> sizes;  ///< bytes of each reference's object, at least 1; empty: the trace has no sizes
  std::uint32_t objects = 0;         ///< distinct ones
};

enum class BlockTraceFormat {
  automatic,       ///< by the file's name: .jsonl, .csv, .oracleGeneral or .bin
  mooncake,        ///< JSON lines, a reference for each of `hash_ids`
  csv,             ///< time,object[,size], with or without a header line
  oracle_general,  ///< libCacheSim's records of 24 bytes
};

/// What a request for several blocks does to a cache.
enum class BlockLookup {
  /// All blocks of a prompt are looked up before any comes in, and then referenced from the last to the first, so that
  /// a
  /// prefix outlives its continuations, as serving engines do it.
  prompt,
  block,  ///< every block is looked up and comes in by itself, from the first to the last
};

/// Reads all of a trace. Throws Error: file_not_found, permission_denied, io_failure; unsupported for a name that tells
/// no format; invalid_value, missing_data and wrong_type naming the line or record, for times that are negative or go
/// back, sizes of 0, damaged lines and a last record that is cut off. `lookup` is about formats with requests
/// (Mooncake).
BlockTrace read_block_trace(const std::filesystem::path& path, BlockTraceFormat format = BlockTraceFormat::automatic,
                            BlockLookup lookup = BlockLookup::prompt);

}  // namespace evictsim::traces

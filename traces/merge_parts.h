#pragma once
/// \file
/// The captures of tensor-parallel ranks, opened and put in the order of their heads; for traces/merge.cpp.

#include <array>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "traces/error.h"
#include "traces/merge.h"
#include "traces/reader.h"

namespace evictsim::traces {

inline constexpr std::array head_attributes = {first_query_head_attribute, first_kv_head_attribute,
                                               all_query_heads_attribute, all_kv_heads_attribute};

/// One request in one part.
struct Place {
  const Reader* reader = nullptr;
  std::size_t sequence = 0;
  [[nodiscard]] const SequenceInfo& info() const { return reader->sequences()[sequence]; }
};

/// The capture of one rank. Movable: places point to readers, which stay where they are.
struct Part {
  std::string name;
  std::vector<Reader> readers;
  std::map<std::string, Place> requests;
  int first_query = 0, first_kv = 0, all_queries = 0, all_kv = 0;

  [[nodiscard]] const Header& header() const { return readers.front().header(); }
  [[nodiscard]] int end_query() const { return first_query + header().num_query_heads; }
  [[nodiscard]] int end_kv() const { return first_kv + header().num_kv_heads; }
};

/// An input that cannot be merged.
Error not_mergeable(const std::string& file, const std::string& dataset, const std::string& rule,
                    const std::string& value = {});

/// Opens a file or a directory with a manifest, whose shards must be of one rank. Throws Error.
Part open_part(const std::filesystem::path& path);

/// Throws Error unless both record the same model and layers.
void require_same_model(const Reader& first, const Reader& other);

/// Puts the parts in the order of their heads. Throws Error unless these are all of the model's.
void arrange(std::vector<Part>& parts);

}  // namespace evictsim::traces

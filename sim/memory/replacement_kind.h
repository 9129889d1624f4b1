#pragma once
/// \file
/// Replacement policies by name. A policy is one file in sim/memory/replacement/ that defines its ReplacementKind with
/// make_kind() (sim/memory/replacement_replay.h), and a line in replacement_kind.cpp.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "policies/parameters.h"
#include "sim/memory/replacement.h"
#include "traces/blocks/block_trace.h"

namespace evictsim::sim {

/// What a replay counts.
struct ReplayCounts {
  std::uint64_t hits = 0;
  std::vector<std::uint32_t> misses;  ///< of each object, when asked for
};

/// A trace made ready for replays.
struct ReplayInput {
  const traces::BlockTrace* trace = nullptr;
  const std::vector<std::uint32_t>* next_references = nullptr;  ///< of each reference; only for policies that see them
  std::uint64_t capacity = 1;
  bool bytes = false;         ///< capacity is in bytes, else in objects
  bool count_misses = false;  ///< fill ReplayCounts::misses
};

struct ReplacementKind {
  std::string name;
  std::string sentence;  ///< what it does, one sentence
  std::string citation;
  std::vector<policies::ParameterSpec> parameters;
  bool sees_future = false;  ///< needs Item::next_reference
  /// Whether it is LRU, whose hits at every size follow from one pass (sim/memory/stack_distance.h).
  bool is_lru = false;
  std::unique_ptr<ReplacementPolicy> (*make)(const policies::Parameters&, const ReplacementShape&) = nullptr;
  /// A whole trace through one cache, without a virtual call per reference.
  ReplayCounts (*replay)(const policies::Parameters&, const ReplayInput&) = nullptr;
};

/// A policy and its parameters.
struct Replacement {
  const ReplacementKind* kind;
  policies::Parameters parameters;
  std::string text;  ///< as it was written, "clock(bits=2)"

  [[nodiscard]] std::unique_ptr<ReplacementPolicy> make(const ReplacementShape& shape) const {
    return kind->make(parameters, shape);
  }
};

/// All kinds, in the order of the documents.
const std::vector<const ReplacementKind*>& replacement_kinds();

/// "lru", "clock(bits=2)". Throws Error: unknown_name with the nearest names, invalid_argument for what cannot be read
/// and for parameters out of their range.
Replacement parse_replacement(std::string_view text);
/// "lru,arc,clock(bits=2)"; "all" stands for every kind with its defaults.
std::vector<Replacement> parse_replacements(std::string_view list);

}  // namespace evictsim::sim

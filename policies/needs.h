#pragma once
/// \file
/// What a policy needs from a trace beyond k, v and the queries of decode rows.

#include <algorithm>
#include <array>
#include <set>
#include <string>

#include "models/matrix.h"
#include "traces/packets.h"
#include "traces/reader.h"

namespace evictsim::policies {

struct Needs {
  models::Index window_queries = 0;  ///< q of the last so many tokens at every cut
  bool all_queries = false;          ///< q of every prompt row
  /// `Scorer::observe` or window attention at cuts while decoding: q of every decode row.
  bool decode_attention = false;
  bool output_weights = false;  ///< w_o of every layer replayed
  bool layer_input = false;     ///< x and the norm before attention of every layer replayed
  bool second_pass = false;     ///< rows of a second forward pass over the context
  /// Documents recorded alone, by PacketSet: what of every layer replayed.
  std::array<traces::PacketContents, traces::packet_sets.size()> packets = {};
  std::set<traces::Channel> channels = {};  ///< per-token channels
  std::set<std::string> spans = {};         ///< kinds of annotated ranges
  /// Parameters without which the policy cannot run ("weights: a file with gates"); it is skipped like one that lacks a
  /// dataset.
  std::set<std::string> parameters = {};

  /// The union of two needs.
  [[nodiscard]] Needs with(const Needs& other) const {
    Needs both = *this;
    both.window_queries = std::max(window_queries, other.window_queries);
    both.all_queries |= other.all_queries;
    both.decode_attention |= other.decode_attention;
    both.output_weights |= other.output_weights;
    both.layer_input |= other.layer_input;
    both.second_pass |= other.second_pass;
    for (std::size_t set = 0; set < packets.size(); ++set) {
      both.packets[set].rows |= other.packets[set].rows;
      both.packets[set].queries |= other.packets[set].queries;
      both.packets[set].after |= other.packets[set].after;
    }
    both.channels.insert(other.channels.begin(), other.channels.end());
    both.spans.insert(other.spans.begin(), other.spans.end());
    both.parameters.insert(other.parameters.begin(), other.parameters.end());
    return both;
  }
};

/// One cache per KV head (the group shares it), or one per query head (as code that repeats keys for the group does).
enum class Granularity { kv_head, query_head };

}  // namespace evictsim::policies

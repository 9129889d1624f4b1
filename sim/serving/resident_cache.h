#pragma once
/// \file
/// What a sequence keeps of its KV cache and what its attention reads, as a function of its length. Full attention
/// keeps and reads everything, which needs no object of this type; sliding windows and evicting caches do.

#include <array>
#include <cstdint>
#include <memory>

#include "models/llm.h"
#include "models/step_time.h"

namespace evictsim::sim {

/// What a sequence's decode steps cost while its context goes from that asked for to `until`, both included.
struct ReadSpan {
  std::int64_t units = 0;            ///< read by the step at the context asked for: entries times units_per_entry()
  std::int64_t units_per_token = 0;  ///< more with every further token
  models::Femtoseconds extra = 0;    ///< of every step, beside attention: scoring, recall
  /// Last context for which this holds and blocks() does not fall, not below the context asked for.
  std::int64_t until = 0;
};

/// Query-key work of a chunk of a prompt.
struct ChunkReads {
  std::int64_t context = 0;  ///< entries read, cached and own; mean over layers
  std::int64_t pairs = 0;    ///< query-key pairs of one query head; mean over layers
};

/// Where every token sees all before it.
inline ChunkReads causal_chunk(std::int64_t cached, std::int64_t tokens) {
  return {cached + tokens, cached * tokens + tokens * (tokens + 1) / 2};
}

/// Reads are means, counted in fractions of an entry: fine enough that rounding moves step times by less than a
/// thousandth.
inline constexpr std::int64_t resident_units_per_entry = 256;

/// Bytes by tier below the replica, the first two of them.
using TierBytes = std::array<std::int64_t, 2>;

/// What a decode step moves.
struct TierTraffic {
  TierBytes recalled{};  ///< up, before it computes
  TierBytes held{};      ///< by the sequence in tiers during the step; what is more than before is moved down
  bool operator==(const TierTraffic&) const = default;
};

/// Asked once per sequence and change of the batch, never per token. All answers are pure functions. Lengths count
/// tokens: `context` is the sequence's length with the token being computed, of which `prompt` were given.
class ResidentCache {
 public:
  ResidentCache() = default;
  ResidentCache(const ResidentCache&) = delete;
  ResidentCache& operator=(const ResidentCache&) = delete;
  virtual ~ResidentCache() = default;

  /// Reads are means over layers and heads, and counted in integers: in 1/units_per_entry() of an entry.
  [[nodiscard]] virtual std::int64_t units_per_entry() const = 0;
  [[nodiscard]] virtual ReadSpan reads(std::int64_t prompt, std::int64_t context) const = 0;
  /// Blocks of `block_tokens` tokens in all layers that the sequence holds. At least 1, at most those of the context,
  /// and not falling up to the end of the prompt. Also what a preempted sequence holds while it is computed again.
  [[nodiscard]] virtual std::int64_t blocks(std::int64_t prompt, std::int64_t context, int block_tokens) const = 0;
  /// Reads of `tokens` tokens on top of `cached` ones, part of a prompt.
  [[nodiscard]] virtual ChunkReads chunk(std::int64_t cached, std::int64_t tokens) const = 0;

  /// Tokens whose keys and values in all layers take as many bytes as the sequence keeps in the first tier. Room for
  /// them is taken with its admission, and they go there when the prompt is done.
  [[nodiscard]] virtual double tokens_below(std::int64_t /*prompt*/) const { return 0; }
  /// Whether traffic() is ever more than nothing. It changes only where a span of reads() ends, and a step that recalls
  /// is a span of its own.
  [[nodiscard]] virtual bool moves() const { return false; }
  [[nodiscard]] virtual TierTraffic traffic(std::int64_t /*prompt*/, std::int64_t /*context*/) const { return {}; }
};

/// That of a model: sliding windows, sparse attention with an indexer and linear layers, as models/llm.h describes
/// them. Null if every layer keeps and reads everything.
std::shared_ptr<const ResidentCache> resident_cache(const models::Llm& llm);

}  // namespace evictsim::sim

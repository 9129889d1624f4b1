#pragma once
/// \file
/// What a policy sees. Every view ends at the last token seen: later rows are not reachable through it.
/// Attention is over what is resident, and is shared between policies where they ask for the same.

#include <cstdint>
#include <random>
#include <span>
#include <string_view>

#include "models/geometry.h"
#include "models/matrix.h"
#include "models/rope.h"
#include "traces/header.h"
#include "traces/reader.h"

namespace evictsim::policies {

using models::Index;

/// Query heads [first, first + count) that read one cache head.
struct QueryHeads {
  int first = 0;
  int count = 0;
};

/// One layer of one sequence up to now. A cache head is a KV head, or a query head for policies that keep one cache per
/// query head (`Scorer::granularity`); keys and values are then those of the KV head it belongs to.
class LayerView {
 public:
  virtual ~LayerView() = default;
  [[nodiscard]] virtual const models::Geometry& geometry() const = 0;
  [[nodiscard]] virtual const models::Rope& rope() const = 0;
  [[nodiscard]] virtual int layer() const = 0;  ///< index in the model
  [[nodiscard]] virtual Index prompt_length() const = 0;
  [[nodiscard]] virtual Index seen() const = 0;  ///< tokens seen so far; rows 0 .. seen - 1
  /// Absolute positions of the rows seen, [seen].
  [[nodiscard]] virtual std::span<const std::int32_t> positions() const = 0;
  [[nodiscard]] virtual int heads() const = 0;  ///< cache heads
  [[nodiscard]] virtual QueryHeads query_heads(int head) const = 0;
  /// Rows resident in a cache head, ascending.
  [[nodiscard]] virtual std::span<const std::int32_t> entries(int head) const = 0;
  /// A per-token channel of the rows seen, [seen]; declared by Needs::channels. `index` is the layer's index in the
  /// model for channels that every captured layer has (step_norm, ...), the column of entropy_top, 0 for the others.
  [[nodiscard]] virtual std::span<const float> channel(traces::Channel channel, int index) const = 0;
  /// Captured layers of the model, ascending.
  [[nodiscard]] const std::vector<int>& captured_layers() const { return geometry().layers; }
};

/// A layer's cache at the moment of a cut: given to scorers, allocators and protections.
class CacheView : public LayerView {
 public:
  /// Keys after RoPE and values of the resident entries, [entries, d], in the order of `entries(head)`.
  [[nodiscard]] virtual models::MatrixView keys(int head) const = 0;
  [[nodiscard]] virtual models::MatrixView values(int head) const = 0;
  /// Token rows seen that have a query, ascending, [Q]; and those queries after RoPE, [Q, d].
  [[nodiscard]] virtual std::span<const std::int32_t> query_rows() const = 0;
  [[nodiscard]] virtual models::MatrixView queries(int query_head) const = 0;
  /// Columns of W_O that belong to a query head, [hidden_size, d]. Declared by Needs::output_weights.
  [[nodiscard]] virtual models::MatrixView output_weights(int query_head) const = 0;
  /// What enters the attention block for every row seen, behind the norm before it: [seen, hidden_size]. Declared by
  /// Needs::layer_input.
  [[nodiscard]] virtual models::MatrixView layer_input() const = 0;
  /// Queries of a second forward pass over the context and the entries each may see: [Ts, d], [Ts]. Declared by
  /// Needs::second_pass.
  [[nodiscard]] virtual models::MatrixView second_pass_queries(int query_head) const = 0;
  [[nodiscard]] virtual std::span<const traces::Span> second_pass_chunks() const = 0;
  /// Keys of the second pass's own rows after RoPE, [Ts, d]; no rows where the trace does not hold them.
  [[nodiscard]] virtual models::MatrixView second_pass_keys(int kv_head) const {
    static_cast<void>(kv_head);
    return models::view(nullptr, 0, geometry().head_dim);
  }
  /// Attention of the last `rows` tokens seen, entry-major: element (i, r) is what entry i of the head's cache receives
  /// from token seen - rows + r, causal softmax over the resident entries. [entries, rows].
  /// Declared by Needs::window_queries.
  [[nodiscard]] virtual models::MatrixView window_attention(int query_head, Index rows) const = 0;
  /// Sum over all prompt rows of the causal softmax over the full prompt, for every prompt row: [prompt_length].
  /// Declared by Needs::all_queries.
  [[nodiscard]] virtual std::span<const double> accumulated_attention(int query_head) const = 0;
  /// Annotated ranges of prompt tokens by kind ("evidence", "question", ...); empty when the trace has none.
  [[nodiscard]] virtual std::span<const traces::Span> spans(std::string_view kind) const = 0;
  /// A generator seeded by (seed, sequence, layer, head): the same at every call and in every run.
  [[nodiscard]] virtual std::mt19937_64 generator(int head) const = 0;
};

/// One decode step, after its row attended: given to `Scorer::observe`.
class StepView : public LayerView {
 public:
  [[nodiscard]] virtual Index row() const = 0;  ///< token row that attended, = seen() - 1
  /// Softmax over the resident entries, in the order of `entries` of the query head's cache: [entries].
  [[nodiscard]] virtual std::span<const float> attention(int query_head) const = 0;
};

/// What only an oracle may see.
class FutureView {
 public:
  virtual ~FutureView() = default;
  /// Full-cache attention that every prompt entry receives from `query_head`, summed over all decode rows evaluated:
  /// [prompt_length].
  [[nodiscard]] virtual std::span<const double> future_mass(int query_head) const = 0;
  /// The whole sequence of the full-cache run: tokens; keys and values of a KV head [length, d]; token rows that have a
  /// query, ascending, and those queries [Tq, d].
  [[nodiscard]] virtual Index length() const = 0;
  [[nodiscard]] virtual models::MatrixView keys(int kv_head) const = 0;
  [[nodiscard]] virtual models::MatrixView values(int kv_head) const = 0;
  [[nodiscard]] virtual std::span<const std::int32_t> query_rows() const = 0;
  [[nodiscard]] virtual models::MatrixView queries(int query_head) const = 0;
};

}  // namespace evictsim::policies

#pragma once
/// \file
/// Documents of a prompt read alone, for KV Packet (arXiv 2604.13226): bare, and between boundary rows; then what
/// stands behind them, read once more behind their packets.

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "traces/capture/llama_engine.h"
#include "traces/capture/step_rows.h"
#include "traces/header.h"
#include "traces/packets.h"

namespace evictsim::traces::capture {

/// What stands around a document. Without any boundary, documents are recorded bare only.
struct PacketPlan {
  std::string header, trailer;  ///< text or "tokens:5,6,7"; empty: none
  /// Weights file (docs/weights.md) whose layer_000 holds trained embeddings `header` and `trailer` [rows, D], in place
  /// of the above; empty: none.
  std::string embeddings;
};

/// One side of a document: tokens, or embeddings [rows, D].
struct Boundary {
  std::vector<std::int32_t> tokens;
  std::vector<float> embeddings;
  std::int32_t rows = 0;
};
struct Wrapper {
  Boundary header, trailer;
  [[nodiscard]] std::int32_t rows() const { return header.rows + trailer.rows; }
};

/// Reads `plan`. Throws Error naming the file, tensor or token that is wrong.
Wrapper make_wrapper(const PacketPlan& plan, int hidden_size, int vocabulary,
                     const std::function<std::vector<std::int32_t>(const std::string&)>& tokenize);

/// The packets of `documents` (token ranges, ascending and apart) in a prompt of `prompt_length` tokens.
/// Throws Error(invalid_argument) where documents are missing, empty, overlap or leave the prompt.
Packets packets_of(const std::vector<Span>& documents, std::int32_t prompt_length, const Wrapper& wrapper);

/// Entries that a context needs for PacketPass.
std::int32_t entries_needed(const Packets& packets, std::int32_t length);

/// Runs the model over packets. Positions are counted from 0.
class PacketPass {
 public:
  /// `context` has two sequences and room for `entries_needed`; its collector is `collector`. `tokens` [length] is the
  /// whole sequence.
  PacketPass(LlamaContext& context, NodeCollector& collector, int ubatch, const std::vector<std::int32_t>& tokens);

  using Take = std::function<void(const StepRows&)>;
  /// Every document alone, from position 0 on.
  void read_alone(const Packets& packets, const Wrapper& wrapper, const Take& take);
  /// What stands before the documents, then every document alone at its offset, then what stands behind them, which
  /// attends everything; `take` gets the last only, from token row `packets.back().document.last` on. Rows from
  /// `prompt_length` on come one by one.
  void read_behind(const Packets& packets, const Wrapper& wrapper, std::int32_t prompt_length, const Take& take);

 private:
  void read_tokens(std::span<const std::int32_t> tokens, std::int32_t first, int sequence, std::size_t step,
                   const Take& take);
  void read_boundary(const Boundary& boundary, std::int32_t first, const Take& take);
  void read_packet(const Packet& packet, const Wrapper& wrapper, std::int32_t first, const Take& take);

  LlamaContext& context_;
  NodeCollector& collector_;
  std::size_t ubatch_;
  const std::vector<std::int32_t>& tokens_;
};

}  // namespace evictsim::traces::capture

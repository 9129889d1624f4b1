#pragma once
/// \file
/// The tiny "llama" model computed from its weights in double precision, with any attention cut: what other code says
/// about a changed model is held against this.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "tests/capture/tiny_model.h"

namespace evictsim::tests {

/// Whether token row `row` attends entry `entry` (at most `row`) in a layer's KV head.
using Attends = std::function<bool(int layer, int kv_head, std::size_t row, std::size_t entry)>;

/// Told after every row of a layer: the attention on each entry up to the row, mean over query heads.
using Attended = std::function<void(int layer, std::size_t row, const std::vector<double>& attention)>;

/// What a forward pass over a sequence gave.
struct ReferencePass {
  std::vector<std::vector<double>> logits;                  ///< [row][vocab]
  std::vector<std::vector<std::vector<double>>> projected;  ///< [layer][row] attention output behind W_O, [D]
};

/// All rows attend what is before them where `attends` allows it; layer by layer, and in a layer row by row.
ReferencePass reference_pass(const TinyModel& model, const TinyWeights& weights, std::span<const std::int32_t> tokens,
                             const Attends& attends, const Attended& attended = {});

/// KL(a || b) of two rows of logits, nats.
double reference_kl(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace evictsim::tests

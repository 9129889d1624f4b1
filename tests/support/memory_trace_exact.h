#pragma once
/// \file
/// Attention of a memory trace in double precision, straight from the definitions of docs/metrics.md: nothing is shared
/// with the code under test.

#include <cstdint>
#include <vector>

#include "tests/support/memory_trace.h"

namespace evictsim::test {

/// One layer of one sequence.
class ExactLayer {
 public:
  explicit ExactLayer(const MemoryTrace& trace, std::size_t captured_layer = 0, std::size_t sequence = 0);

  /// Logits of a token row's query over all rows [T]; minus infinity where not visible.
  [[nodiscard]] std::vector<double> logits(int query_head, std::int32_t row) const;
  /// Softmax of them over `resident` [T] (all rows when empty): [T].
  [[nodiscard]] std::vector<double> weights(int query_head, std::int32_t row,
                                            const std::vector<bool>& resident = {}) const;
  /// Weighted mean of the values of the query head's KV head: [d].
  [[nodiscard]] std::vector<double> output(int query_head, const std::vector<double>& weights) const;

  struct Metrics {
    double retained_mass = 0;
    double output_error = 0;
    double dilution = 0;  ///< NaN without useful entries
    double entropy = 0;
    std::vector<double> difference;  ///< [d] output over the resident entries minus full output
  };
  [[nodiscard]] Metrics metrics(int query_head, std::int32_t row, const std::vector<bool>& resident,
                                const std::vector<std::int32_t>& useful) const;

  /// Full-cache attention that every prompt entry receives, summed over `rows`: [n].
  [[nodiscard]] std::vector<double> mass(int query_head, const std::vector<std::int32_t>& rows) const;
  /// The `count` prompt entries with the largest mass over `rows` without `row`; ascending.
  [[nodiscard]] std::vector<std::int32_t> useful(int query_head, std::int32_t row,
                                                 const std::vector<std::int32_t>& rows, std::size_t count) const;
  /// |W_O x|^2 for concatenated heads x [Hq * d].
  [[nodiscard]] double projected_squared(const std::vector<double>& x) const;
  [[nodiscard]] std::vector<std::int32_t> decode_rows() const;
  [[nodiscard]] std::int32_t length() const { return tensors_.length; }
  [[nodiscard]] std::int32_t prompt_length() const { return info_.prompt_length; }

 private:
  const traces::Header& header_;
  const traces::SequenceInfo& info_;
  const traces::LayerTensors& tensors_;
  const std::vector<float>* w_o_;
  int window_;
};

/// [T]: the prompt rows `kept`, and every decode row.
std::vector<bool> resident_set(const std::vector<std::int32_t>& kept, std::int32_t prompt_length, std::int32_t length);

}  // namespace evictsim::test

#pragma once
/// \file
/// The two terms that Compactor (arXiv 2507.08143) blends, as kvpress 0.5.5 computes them; each is also a policy by
/// itself. Both come standardised over the layer, and both look at `places` [first, last) of every cache head.

#include <memory>
#include <vector>

#include "policies/cache_view.h"
#include "policies/parameters.h"
#include "traces/weights.h"

namespace evictsim::policies {

/// One number per cache head and place looked at.
using HeadRows = std::vector<std::vector<double>>;

/// Places of a head that are looked at: all but the first `skip_first` and the last `skip_last`.
struct Places {
  Index skip_first = 0;
  Index skip_last = 0;
  /// [first, last) among `count` entries.
  [[nodiscard]] std::pair<Index, Index> of(Index count) const;
};

/// The random matrices of leverage scores: given by a file, or drawn from the view's generator.
class Sketch {
 public:
  /// From the parameters below.
  explicit Sketch(const Parameters& parameters);
  static ParameterSpec dimension_parameter();  ///< `sketch`
  static ParameterSpec file_parameter();       ///< `phi`
  /// [d, sketch] of a cache head, the factor 1 / sqrt(sketch) included.
  [[nodiscard]] models::MatrixDouble matrix(const CacheView& cache, int head) const;

 private:
  Index dimension_;
  std::shared_ptr<const traces::Weights> file_;  ///< null: drawn
};

/// Leverage of the keys before RoPE, centred over the places and sketched: x_j^T (X^T X + jitter I)^-1 x_j, at least 0,
/// with jitter 0.01, raised tenfold up to four times where the factorisation fails.
HeadRows leverage_scores(const CacheView& cache, const Places& places, const Sketch& sketch);

/// Attention inside chunks of `chunk` entries without causal mask and without a factor on the logits, summed over
/// queries, averaged over the group, times the norm of the value, averaged over three neighbours. Rows that fill up the
/// last chunk attend evenly, and their keys take part with logit -1e-9, as in kvpress. Entries without a recorded query
/// do not attend.
HeadRows noncausal_attention_scores(const CacheView& cache, const Places& places, Index chunk);

/// Subtracts the mean over all rows and divides by the unbiased standard deviation, at least 1e-6.
void standardise(HeadRows& rows);

}  // namespace evictsim::policies

#include "policies/window_logits.h"

#include <cmath>

namespace evictsim::policies {

models::MatrixDouble window_logits(const CacheView& cache, int head, int query_head, Index rows) {
  const models::MatrixView keys = cache.keys(head);
  const models::MatrixView queries = cache.queries(query_head);
  models::MatrixDouble logits = keys.cast<double>() * queries.bottomRows(rows).cast<double>().transpose();
  logits *= cache.geometry().attention_scale;
  if (const double cap = cache.geometry().logit_softcap; cap > 0) {
    logits = logits.unaryExpr([cap](double logit) { return cap * std::tanh(logit / cap); });
  }
  return logits;
}

models::MatrixDouble softmax_over(const models::MatrixDouble& logits, Index first, Index count) {
  models::MatrixDouble weights = logits.middleRows(first, count);
  if (count == 0) return weights;
  for (Index column = 0; column < weights.cols(); ++column) {
    const double highest = weights.col(column).maxCoeff();
    weights.col(column) = (weights.col(column).array() - highest).exp();
    weights.col(column) /= weights.col(column).sum();
  }
  return weights;
}

}  // namespace evictsim::policies

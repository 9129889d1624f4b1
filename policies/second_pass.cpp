#include "policies/second_pass.h"

#include <algorithm>
#include <cmath>

#include "models/attention.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

constexpr Index block_rows = 64;

/// Half-open range of second-pass rows.
struct Rows {
  Index first = 0;
  Index last = 0;
};

/// Consecutive rows with the same chunk.
std::vector<Rows> passes_of(std::span<const traces::Span> chunks) {
  std::vector<Rows> passes;
  for (Index row = 0; row < std::ssize(chunks); ++row) {
    const auto place = static_cast<std::size_t>(row);
    if (row == 0 || !(chunks[place] == chunks[place - 1])) passes.push_back({row, row});
    passes.back().last = row + 1;
  }
  return passes;
}

/// Softmax of one row of logits over its first `visible` columns; the rest becomes 0.
void softmax(Eigen::Ref<Eigen::RowVectorXd> row, Index visible) {
  if (visible > 0) {
    auto seen = row.head(visible).array();
    const double highest = seen.maxCoeff();
    seen = (seen - highest).exp();
    const double total = seen.sum();
    seen /= total;
  }
  row.tail(row.size() - visible).setZero();
}

}  // namespace

SecondPassAttention second_pass_attention(const CacheView& cache, int head, int query_head, Index sinks) {
  const auto entries = cache.entries(head);
  SecondPassAttention received{.highest = std::vector<double>(entries.size(), 0.0),
                               .mean = std::vector<double>(entries.size(), 0.0)};
  std::vector<double> observers(entries.size(), 0.0);
  const auto chunks = cache.second_pass_chunks();
  const models::MatrixView queries = cache.second_pass_queries(query_head);
  const models::MatrixView keys = cache.keys(head);
  const models::MatrixView own_keys = cache.second_pass_keys(cache.geometry().kv_head_of(query_head));
  const models::LogitRule rule{.scale = cache.geometry().attention_scale, .softcap = cache.geometry().logit_softcap};
  for (const Rows& pass : passes_of(chunks)) {
    const traces::Span& chunk = chunks[static_cast<std::size_t>(pass.first)];
    const Index sink_count = count_before(entries, std::min<Index>(sinks, chunk.first));
    const Index first = count_before(entries, chunk.first);
    const Index count = count_before(entries, chunk.last) - first;
    if (count == 0) continue;
    const Index own = own_keys.rows() > 0 ? pass.last - pass.first : 0;
    models::MatrixDouble seen(sink_count + count + own, keys.cols());
    seen.topRows(sink_count) = keys.topRows(sink_count).cast<double>();
    seen.middleRows(sink_count, count) = keys.middleRows(first, count).cast<double>();
    if (own > 0) seen.bottomRows(own) = own_keys.middleRows(pass.first, own).cast<double>();
    for (Index begin = pass.first; begin < pass.last; begin += block_rows) {
      const Index rows = std::min(block_rows, pass.last - begin);
      models::MatrixDouble weights = queries.middleRows(begin, rows).cast<double>() * seen.transpose();
      weights = weights.unaryExpr([&](double dot) { return rule.logit(dot); });
      for (Index r = 0; r < rows; ++r) {
        const Index own_visible = own > 0 ? begin + r - pass.first + 1 : 0;
        softmax(weights.row(r), sink_count + count + own_visible);
      }
      for (Index i = 0; i < count; ++i) {
        const auto place = static_cast<std::size_t>(first + i);
        const auto column = weights.col(sink_count + i);
        received.highest[place] = std::max(received.highest[place], column.maxCoeff());
        received.mean[place] += column.sum();
        observers[place] += static_cast<double>(rows);
      }
    }
  }
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (observers[i] > 0) received.mean[i] /= observers[i];
  }
  return received;
}

}  // namespace evictsim::policies

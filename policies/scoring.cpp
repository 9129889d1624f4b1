#include "policies/scoring.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>

namespace evictsim::policies {

ParameterSpec group_parameter() {
  return choice_parameter("group", {"mean", "max", "sum", "none"},
                          "how a group's query heads share a score; none: one cache per query head");
}

GroupReduction group_of(const Parameters& parameters) {
  const std::string& name = parameters.choice("group");
  if (name == "mean") return GroupReduction::mean;
  if (name == "max") return GroupReduction::max;
  if (name == "sum") return GroupReduction::sum;
  return GroupReduction::none;
}

Granularity granularity_of(GroupReduction reduction) {
  return reduction == GroupReduction::none ? Granularity::query_head : Granularity::kv_head;
}

std::vector<double> reduce_group(GroupReduction reduction, const std::vector<std::vector<double>>& rows) {
  if (rows.empty() || (reduction == GroupReduction::none && rows.size() != 1)) {
    throw std::logic_error("reduce_group: wrong number of rows");
  }
  std::vector<double> reduced = rows.front();
  for (std::size_t member = 1; member < rows.size(); ++member) {
    for (std::size_t i = 0; i < reduced.size(); ++i) {
      reduced[i] =
          reduction == GroupReduction::max ? std::max(reduced[i], rows[member][i]) : reduced[i] + rows[member][i];
    }
  }
  if (reduction == GroupReduction::mean) {
    for (double& value : reduced) value /= static_cast<double>(rows.size());
  }
  return reduced;
}

ParameterSpec kernel_parameter(std::string default_value) {
  ParameterSpec spec =
      integer_parameter("kernel", std::move(default_value), 1, 1023, "neighbours pooled, 1 = no pooling");
  spec.odd = true;
  return spec;
}

ParameterSpec pool_parameter() { return choice_parameter("pool", {"avg", "max"}, "pooling over neighbours"); }

Pooling pool_of(const Parameters& parameters) {
  return parameters.choice("pool") == "max" ? Pooling::max : Pooling::avg;
}

std::vector<double> pool(Pooling pooling, std::span<const double> row, Index kernel) {
  const auto length = static_cast<Index>(row.size());
  const Index reach = kernel / 2;
  std::vector<double> pooled(row.size());
  for (Index i = 0; i < length; ++i) {
    const auto window =
        row.subspan(static_cast<std::size_t>(std::max<Index>(0, i - reach)),
                    static_cast<std::size_t>(std::min(length, i + reach + 1) - std::max<Index>(0, i - reach)));
    double value = pooling == Pooling::max ? -std::numeric_limits<double>::infinity() : 0.0;
    for (const double neighbour : window)
      value = pooling == Pooling::max ? std::max(value, neighbour) : value + neighbour;
    pooled[static_cast<std::size_t>(i)] = pooling == Pooling::max ? value : value / static_cast<double>(kernel);
  }
  return pooled;
}

void softmax(std::vector<double>& logits) {
  if (logits.empty()) return;
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (double& logit : logits) {
    logit = std::exp(logit - largest);
    sum += logit;
  }
  for (double& logit : logits) logit /= sum;
}

float raised_score(const LayerScores& scores) {
  float highest = 0.0F;
  for (int head = 0; head < scores.heads(); ++head) {
    for (const float score : scores.of(head)) highest = std::max(highest, score);
  }
  return static_cast<float>(static_cast<double>(highest) + 1.0);
}

void protect_spans(const CacheView& cache, std::string_view kind, LayerScores& scores) {
  for (const traces::Span& span : cache.spans(kind)) {
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      scores.protect(head, count_before(entries, span.first), count_before(entries, span.last));
    }
  }
}

Index count_before(std::span<const std::int32_t> entries, Index row) {
  return std::lower_bound(entries.begin(), entries.end(), static_cast<std::int32_t>(row)) - entries.begin();
}

}  // namespace evictsim::policies

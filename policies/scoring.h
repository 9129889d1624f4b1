#pragma once
/// \file
/// What several scorers share: reducing a group of query heads to its KV head, pooling over neighbours, and the
/// "largest score + 1" by which kvpress protects entries.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policies/cache_view.h"
#include "policies/needs.h"
#include "policies/parameters.h"
#include "policies/scores.h"

namespace evictsim::policies {

/// How the rows of a group's query heads become one row; `none` keeps one cache per query head.
enum class GroupReduction { mean, max, sum, none };

/// The parameter `group`, mean unless given.
ParameterSpec group_parameter();
GroupReduction group_of(const Parameters& parameters);
Granularity granularity_of(GroupReduction reduction);
/// `rows` [heads of the group][entries], all of one length, at least one; for `none` exactly one.
std::vector<double> reduce_group(GroupReduction reduction, const std::vector<std::vector<double>>& rows);

enum class Pooling { avg, max };

/// The parameters `kernel` and `pool`.
ParameterSpec kernel_parameter(std::string default_value = "5");
ParameterSpec pool_parameter();
Pooling pool_of(const Parameters& parameters);
/// Stride-1 pooling of odd `kernel`, same length. avg pads with zeros that count in the divisor, so edges are damped;
/// max ignores what lies outside. As torch's avg_pool1d and max_pool1d.
std::vector<double> pool(Pooling pooling, std::span<const double> row, Index kernel);

/// Softmax in place; nothing to do for no values.
void softmax(std::vector<double>& logits);

/// The largest score of the layer plus one, rounded as kvpress rounds. Call before such entries are filled in, with
/// every other score >= 0 (entries not yet filled in are 0).
float raised_score(const LayerScores& scores);

/// Protects the entries inside the cache's spans of one kind.
void protect_spans(const CacheView& cache, std::string_view kind, LayerScores& scores);

/// Number of leading `entries` (ascending rows) that lie before `row`.
Index count_before(std::span<const std::int32_t> entries, Index row);

}  // namespace evictsim::policies

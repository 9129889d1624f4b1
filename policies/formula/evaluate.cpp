#include "policies/formula/evaluate.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "policies/mean_direction.h"
#include "policies/projected_values.h"
#include "policies/scoring.h"

namespace evictsim::policies::formula {
namespace {

using Row = std::vector<double>;
using Array = Eigen::Map<Eigen::ArrayXd>;
using ConstArray = Eigen::Map<const Eigen::ArrayXd>;

Array array(Row& row) { return {row.data(), std::ssize(row)}; }
ConstArray array(const Row& row) { return {row.data(), std::ssize(row)}; }

// Functions of the standard library rather than Eigen's: the same number from every place of a row.
struct Logarithm {
  double operator()(double x) const { return std::log(x); }
};
struct Exponential {
  double operator()(double x) const { return std::exp(x); }
};
struct Power {
  double operator()(double x, double y) const { return std::pow(x, y); }
};

/// (x - mean) / standard deviation; 0 where all are equal.
void standardise(Row& row) {
  if (row.empty()) return;
  Array values = array(row);
  values -= values.mean();
  const double deviation = std::sqrt(values.square().mean());
  if (deviation > 0) {
    values /= deviation;
  } else {
    values.setZero();
  }
}

/// The share of the other entries that are smaller.
void rank(Row& row) {
  Row sorted = row;
  std::sort(sorted.begin(), sorted.end());
  const double others = static_cast<double>(std::max<std::ptrdiff_t>(std::ssize(row) - 1, 1));
  for (double& value : row) {
    value = static_cast<double>(std::lower_bound(sorted.begin(), sorted.end(), value) - sorted.begin()) / others;
  }
}

class Evaluator {
 public:
  Evaluator(const CacheView& cache, const AttentionRecord* record) : cache_(cache), record_(record) {}

  [[nodiscard]] Rows rows(const Term& term) const {
    switch (term.operation) {
      case Operation::number:
        return {{term.number}};
      case Operation::seen:
        return {{static_cast<double>(cache_.seen())}};
      case Operation::age:
        return by_token(
            [&](std::size_t row) { return static_cast<double>(cache_.seen() - 1) - static_cast<double>(row); });
      case Operation::observers:
        return by_token([&](std::size_t row) { return static_cast<double>(cache_.seen()) - static_cast<double>(row); });
      case Operation::position:
        return by_token([&](std::size_t row) { return static_cast<double>(cache_.positions()[row]); });
      case Operation::entropy:
        return of_channel(cache_.channel(traces::Channel::entropy, 0));
      case Operation::hidden_jump:
        return of_channel(cache_.channel(traces::Channel::step_norm, cache_.layer()));
      case Operation::keys:
      case Operation::values:
      case Operation::projected_values:
      case Operation::attention:
        break;  // only inside what reduces them
      case Operation::window_attention:
        return window_attention(term);
      case Operation::accumulated_attention:
        return accumulated_attention(term);
      case Operation::norm:
        return norms(term);
      case Operation::difference:
        return differences(term);
      case Operation::group:
        return over_group(term);
      case Operation::layer:
        return over_layer(term);
      case Operation::add:
        return combined(term, [](const auto& a, const auto& b) { return a + b; });
      case Operation::subtract:
        return combined(term, [](const auto& a, const auto& b) { return a - b; });
      case Operation::multiply:
        return combined(term, [](const auto& a, const auto& b) { return a * b; });
      case Operation::divide:
        return combined(term, [](const auto& a, const auto& b) { return a / b; });
      case Operation::power:
        return combined(term, [](const auto& a, const auto& b) { return a.binaryExpr(b, Power()); });
      case Operation::minimum:
        return combined(term, [](const auto& a, const auto& b) { return a.min(b); });
      case Operation::maximum:
        return combined(term, [](const auto& a, const auto& b) { return a.max(b); });
      case Operation::negate:
        return changed(term, [](Row& row) { array(row) = -array(row); });
      case Operation::logarithm:
        return changed(term, [](Row& row) { array(row) = array(row).unaryExpr(Logarithm()); });
      case Operation::exponential:
        return changed(term, [](Row& row) { array(row) = array(row).unaryExpr(Exponential()); });
      case Operation::square_root:
        return changed(term, [](Row& row) { array(row) = array(row).sqrt(); });
      case Operation::absolute:
        return changed(term, [](Row& row) { array(row) = array(row).abs(); });
      case Operation::pool_avg:
        return changed(term, [&](Row& row) { row = pool(Pooling::avg, row, term.count); });
      case Operation::pool_max:
        return changed(term, [&](Row& row) { row = pool(Pooling::max, row, term.count); });
      case Operation::share:
        return changed(term, [](Row& row) {
          if (const double sum = array(row).sum(); sum != 0) array(row) /= sum;
        });
      case Operation::zscore:
        return changed(term, standardise);
      case Operation::softmax:
        return changed(term, softmax);
      case Operation::rank:
        return changed(term, rank);
      case Operation::older:
        return older(term);
    }
    throw std::logic_error("formula: a term without rows");
  }

 private:
  // Features --------------------------------------------------------------------------------------------------------

  /// A number per token, looked up for the entries of every cache head.
  template <typename ValueOf>
  [[nodiscard]] Rows by_token(const ValueOf& value_of) const {
    Rows rows;
    for (int head = 0; head < cache_.heads(); ++head) {
      Row& row = rows.emplace_back();
      row.reserve(cache_.entries(head).size());
      for (const std::int32_t entry : cache_.entries(head)) row.push_back(value_of(static_cast<std::size_t>(entry)));
    }
    return rows;
  }

  [[nodiscard]] Rows of_channel(std::span<const float> channel) const {
    return by_token([&](std::size_t row) { return static_cast<double>(channel[row]); });
  }

  /// `row_of(head, query_head)` for every query head.
  template <typename RowOf>
  [[nodiscard]] Rows by_query_head(const RowOf& row_of) const {
    Rows rows;
    for (int head = 0; head < cache_.heads(); ++head) {
      const QueryHeads queries = cache_.query_heads(head);
      for (int query_head = queries.first; query_head < queries.first + queries.count; ++query_head) {
        rows.push_back(row_of(head, query_head));
      }
    }
    return rows;
  }

  [[nodiscard]] Rows window_attention(const Term& term) const {
    const Index window = std::max<Index>(1, shortened(term.count, cache_));
    return by_query_head([&](int head, int query_head) {
      const models::MatrixView attention = cache_.window_attention(query_head, window);
      const auto own = cache_.entries(head);
      Row row(own.size());
      for (Index i = 0; i < attention.rows(); ++i) {
        double& value = row[static_cast<std::size_t>(i)];
        if (term.statistic == Statistic::max) {
          value = static_cast<double>(attention.row(i).maxCoeff());
          continue;
        }
        value = attention.row(i).cast<double>().sum();
        if (term.statistic == Statistic::sum) continue;
        // Entries inside the window are seen by fewer of its queries.
        value /= static_cast<double>(std::min<Index>(window, cache_.seen() - own[static_cast<std::size_t>(i)]));
      }
      return row;
    });
  }

  [[nodiscard]] Rows accumulated_attention(const Term& term) const {
    return by_query_head([&](int head, int query_head) {
      const auto entries = cache_.entries(head);
      Row sums = record_->sums(query_head, entries);
      if (term.statistic == Statistic::sum) return sums;
      for (std::size_t i = 0; i < sums.size(); ++i) sums[i] /= static_cast<double>(cache_.seen() - entries[i]);
      return sums;
    });
  }

  [[nodiscard]] models::MatrixView vectors(const Term& term, int head) const {
    return term.operation == Operation::keys ? cache_.keys(head) : cache_.values(head);
  }

  [[nodiscard]] Rows norms(const Term& term) const {
    const bool absolute = term.count == 1;
    if (term.arguments.front().operation == Operation::projected_values) {
      return by_query_head([&](int head, int query_head) {
        return projected_value_norms(cache_, head, query_head, absolute ? Norm::l1 : Norm::l2);
      });
    }
    Rows rows;
    for (int head = 0; head < cache_.heads(); ++head) {
      const models::MatrixView from = vectors(term.arguments.front(), head);
      Row& row = rows.emplace_back(static_cast<std::size_t>(from.rows()));
      for (Index i = 0; i < from.rows(); ++i) {
        const auto vector = from.row(i).cast<double>();
        row[static_cast<std::size_t>(i)] = absolute ? vector.cwiseAbs().sum() : vector.norm();
      }
    }
    return rows;
  }

  [[nodiscard]] Rows differences(const Term& term) const {
    Rows rows;
    for (int head = 0; head < cache_.heads(); ++head) {
      Row& row = rows.emplace_back(cosines_with_mean_direction(vectors(term.arguments.front(), head)));
      array(row) = -array(row);
    }
    return rows;
  }

  // Operations ------------------------------------------------------------------------------------------------------

  template <typename Change>
  [[nodiscard]] Rows changed(const Term& term, const Change& change) const {
    Rows result = rows(term.arguments.front());
    for (Row& row : result) change(row);
    return result;
  }

  /// Entry by entry, numbers and rows of cache heads repeated where the other side has more.
  template <typename Combine>
  [[nodiscard]] Rows combined(const Term& term, const Combine& combine) const {
    const Term& left_term = term.arguments.front();
    const Term& right_term = term.arguments.back();
    const Rows left = rows(left_term);
    const Rows right = rows(right_term);
    Rows result;
    const auto add = [&](const auto& values) {
      Row& row = result.emplace_back(static_cast<std::size_t>(values.size()));
      array(row) = values;
    };
    const std::size_t count = std::max(left.size(), right.size());
    for (std::size_t i = 0; i < count; ++i) {
      const bool left_repeats = left_term.shape == Shape::number && term.shape != Shape::number;
      const bool right_repeats = right_term.shape == Shape::number && term.shape != Shape::number;
      const Row& a = left[place(left_term.shape, term.shape, i)];
      const Row& b = right[place(right_term.shape, term.shape, i)];
      if (left_repeats) {
        add(combine(Eigen::ArrayXd::Constant(std::ssize(b), a.front()), array(b)));
      } else if (right_repeats) {
        add(combine(array(a), Eigen::ArrayXd::Constant(std::ssize(a), b.front())));
      } else {
        add(combine(array(a), array(b)));
      }
    }
    return result;
  }

  /// Row of a term of shape `from` that belongs to row `i` of a result of shape `to`.
  [[nodiscard]] std::size_t place(Shape from, Shape to, std::size_t i) const {
    if (from == Shape::number) return 0;
    if (from == to) return i;
    return i / static_cast<std::size_t>(cache_.query_heads(0).count);
  }

  [[nodiscard]] Rows over_group(const Term& term) const {
    Rows members = rows(term.arguments.front());
    auto member = members.begin();
    Rows result;
    for (int head = 0; head < cache_.heads(); ++head) {
      const auto end = member + cache_.query_heads(head).count;
      const GroupReduction reduction = term.statistic == Statistic::mean  ? GroupReduction::mean
                                       : term.statistic == Statistic::sum ? GroupReduction::sum
                                                                          : GroupReduction::max;
      result.push_back(reduce_group(reduction, {std::make_move_iterator(member), std::make_move_iterator(end)}));
      member = end;
    }
    return result;
  }

  /// Heads may hold different entries, so heads meet token by token; one that lacks a token adds nothing.
  [[nodiscard]] Rows over_layer(const Term& term) const {
    const Term& argument = term.arguments.front();
    const Rows members = rows(argument);
    const bool largest = term.statistic == Statistic::max;
    Row tokens(static_cast<std::size_t>(cache_.seen()), largest ? -std::numeric_limits<double>::infinity() : 0.0);
    for (std::size_t i = 0; i < members.size(); ++i) {
      const auto own = cache_.entries(static_cast<int>(place(Shape::head_row, argument.shape, i)));
      for (std::size_t entry = 0; entry < own.size(); ++entry) {
        double& token = tokens[static_cast<std::size_t>(own[entry])];
        token = largest ? std::max(token, members[i][entry]) : token + members[i][entry];
      }
    }
    const double divisor = term.statistic == Statistic::mean ? static_cast<double>(members.size()) : 1.0;
    return by_token([&](std::size_t row) { return tokens[row] / divisor; });
  }

  [[nodiscard]] Rows older(const Term& term) const {
    const Term& argument = term.arguments.front();
    const Index first = cache_.seen() - shortened(term.count, cache_);
    Rows result = rows(argument);
    for (std::size_t i = 0; i < result.size(); ++i) {
      const auto own = cache_.entries(static_cast<int>(place(Shape::head_row, argument.shape, i)));
      std::fill(result[i].begin() + count_before(own, first), result[i].end(), 0.0);
    }
    return result;
  }

  const CacheView& cache_;
  const AttentionRecord* record_;
};

}  // namespace

Rows evaluate(const Term& term, const CacheView& cache, const AttentionRecord* record) {
  return Evaluator(cache, record).rows(term);
}

Index shortened(Index window, const CacheView& cache) { return std::min(window, cache.seen() - 1); }

}  // namespace evictsim::policies::formula

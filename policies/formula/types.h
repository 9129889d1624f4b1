#pragma once
/// \file
/// A formula checked: names resolved, options in range, and every operation applied to the shape it works on.

#include <string_view>
#include <vector>

#include "models/matrix.h"
#include "policies/formula/parser.h"
#include "policies/needs.h"

namespace evictsim::policies::formula {

/// What a term holds for the resident entries.
enum class Shape {
  number,         ///< one number for all
  head_row,       ///< a number per entry of every cache head
  query_row,      ///< a number per entry and query head that reads it
  head_vectors,   ///< a vector per entry of every cache head
  query_vectors,  ///< a vector per entry and query head
  attention       ///< a number per entry, query head and query
};

enum class Operation {
  number,
  seen,
  age,
  position,
  observers,
  entropy,
  hidden_jump,
  keys,
  values,
  projected_values,
  attention,
  window_attention,       ///< of the last `count` tokens, by `statistic`
  accumulated_attention,  ///< of all tokens so far, by `statistic`: sum or mean
  norm,                   ///< of order `count`
  difference,
  group,  ///< `statistic` over the query heads of a cache head
  layer,  ///< `statistic` over all heads of the layer, token by token
  negate,
  add,
  subtract,
  multiply,
  divide,
  power,
  minimum,
  maximum,
  logarithm,
  exponential,
  square_root,
  absolute,
  pool_avg,  ///< over `count` neighbours
  pool_max,
  share,
  zscore,
  softmax,
  rank,
  older  ///< 0 in the last `count` tokens
};

enum class Statistic { mean, sum, max };

struct Term {
  Operation operation = Operation::number;
  Shape shape = Shape::number;
  double number = 0;
  Statistic statistic = Statistic::mean;
  models::Index count = 0;
  std::vector<Term> arguments = {};
};

struct Formula {
  Term score;  ///< a head_row or query_row
  /// The last so many tokens score the layer's largest + 1; 0: none.
  models::Index raised = 0;
};

/// Parses and checks. Throws FormulaError at the place that is wrong: invalid_argument, unknown_name with the nearest
/// name.
Formula check(std::string_view text);

/// What evaluating it needs; Needs::decode_attention where attention is accumulated.
Needs needs_of(const Term& term);

/// Whether attention is accumulated anywhere in it.
bool accumulates(const Term& term);

}  // namespace evictsim::policies::formula

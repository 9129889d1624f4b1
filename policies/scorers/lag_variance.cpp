#include <utility>
#include <vector>

#include "policies/arrival_scorer.h"
#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

/// Lowest and highest value of every channel over a chunk of tokens.
struct Range {
  Eigen::RowVectorXd lowest, highest;

  void take(const Eigen::RowVectorXd& row) {
    if (lowest.size() == 0) {
      lowest = row;
      highest = row;
    } else {
      lowest = lowest.cwiseMin(row);
      highest = highest.cwiseMax(row);
    }
  }
  /// Variance over the channels of `row` placed in the range; a channel without one counts as 0.
  [[nodiscard]] double variance(const Eigen::RowVectorXd& row) const {
    Eigen::ArrayXd placed(row.size());
    for (Index c = 0; c < row.size(); ++c) {
      const double width = highest[c] - lowest[c];
      placed[c] = width > 0 ? (row[c] - lowest[c]) / width : 0.0;
    }
    return (placed - placed.mean()).square().mean();
  }
};

/// How unevenly a token's channels lie in the ranges of the chunk of tokens before its own.
class LagVariance : public ArrivalScorer {
 public:
  explicit LagVariance(const Parameters& parameters)
      : ArrivalScorer(parameters.optional_integer("recent")),
        lag_(parameters.integer("lag")),
        with_values_(parameters.choice("of") == "both") {}

 protected:
  [[nodiscard]] double arrive(const CacheView& cache, int head, Index token) override {
    chunks_.resize(static_cast<std::size_t>(cache.heads()));
    Chunks& own = chunks_[static_cast<std::size_t>(head)];
    if (token % lag_ == 0) {
      own.before = std::move(own.now);
      own.now = {};
    }
    const auto entries = cache.entries(head);
    const Index place = count_before(entries, token);
    const double of_key = judge(cache.keys(head).row(place).cast<double>(), own.before.keys, own.now.keys);
    if (!with_values_) return of_key;
    return (of_key + judge(cache.values(head).row(place).cast<double>(), own.before.values, own.now.values)) / 2;
  }

 private:
  struct Ranges {
    Range keys, values;
  };
  struct Chunks {
    Ranges before, now;
  };

  static double judge(const Eigen::RowVectorXd& row, const Range& before, Range& now) {
    now.take(row);
    return before.lowest.size() > 0 ? before.variance(row) : 0.0;
  }

  Index lag_;
  bool with_values_;
  std::vector<Chunks> chunks_;  ///< by cache head
};

const Registration registration(
    {.name = "lag_variance",
     .sentence = "Keeps tokens whose channels lie unevenly in the ranges of the tokens before them.",
     .citation = "the lag-kv variant of EpiKV, arXiv 2606.26472",
     .parameters = lag_variance_parameters(),
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<LagVariance>(parameters); }),
     .default_schedule = "every()"});

}  // namespace
}  // namespace evictsim::policies

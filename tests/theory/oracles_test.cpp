// Are the oracles what they claim: the exact optimum of lost attention, and greedy on the exact change of the output?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "tests/support/memory_trace_exact.h"
#include "tests/support/memory_trace_replay.h"

namespace {

using namespace evictsim;
using namespace evictsim::test;

using Rows = std::vector<std::int32_t>;

/// Calls `use` for every subset of `rows` with at most `count` elements, or all where there are no more.
void for_subsets(const Rows& rows, std::size_t count, const std::function<void(const Rows&)>& use) {
  const std::size_t size = std::min(count, rows.size());
  std::vector<std::uint8_t> chosen(rows.size(), 0);
  std::fill(chosen.begin(), chosen.begin() + static_cast<std::ptrdiff_t>(size), std::uint8_t{1});
  do {
    Rows subset;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (chosen[i] != 0) subset.push_back(rows[i]);
    }
    use(subset);
  } while (std::prev_permutation(chosen.begin(), chosen.end()));
}

/// The most attention that any sequence of evictions retains over the decode rows, by trying all of them.
class Exhaustive {
 public:
  Exhaustive(const MemoryTrace& trace, int kv_head, std::size_t budget, std::int32_t steps)
      : exact_(trace), trace_(trace), kv_head_(kv_head), budget_(budget), steps_(steps) {}

  double best() {
    Rows prompt;
    for (std::int32_t row = 0; row < prompt_length(); ++row) prompt.push_back(row);
    double best = 0;
    for_subsets(prompt, budget_, [&](const Rows& kept) { best = std::max(best, from(prompt_length(), kept)); });
    return best;
  }

 private:
  [[nodiscard]] std::int32_t prompt_length() const { return trace_.sequences[0].info.prompt_length; }

  /// Of rows `row` and later, when `kept` is resident before it arrives.
  double from(std::int32_t row, Rows kept) {
    if (row == trace_.sequences[0].info.length) return 0;
    const auto known = memo_.find({row, kept});
    if (known != memo_.end()) return known->second;
    Rows resident = kept;
    resident.push_back(row);
    double mass = 0;
    const int group = trace_.header.group_size();
    for (int h = kv_head_ * group; h < (kv_head_ + 1) * group; ++h) {
      const std::vector<double> weights = exact_.weights(h, row);
      for (const std::int32_t entry : resident) mass += weights[static_cast<std::size_t>(entry)];
    }
    double rest = 0;
    if ((row - prompt_length() + 1) % steps_ == 0) {
      for_subsets(resident, budget_, [&](const Rows& next) { rest = std::max(rest, from(row + 1, next)); });
    } else {
      rest = from(row + 1, resident);
    }
    return memo_[{row, kept}] = mass + rest;
  }

  ExactLayer exact_;
  const MemoryTrace& trace_;
  int kv_head_;
  std::size_t budget_;
  std::int32_t steps_;
  std::map<std::pair<std::int32_t, Rows>, double> memo_;
};

/// Retained mass of a KV head's group, summed over rows.
double retained(const ReplayCollector& results, const MemoryTrace& trace, int kv_head) {
  const CollectedRows& rows = results.rows.at({0, 0});
  const auto heads = static_cast<std::size_t>(trace.header.num_query_heads);
  const int group = trace.header.group_size();
  double sum = 0;
  for (std::size_t r = 0; r < rows.rows.size(); ++r) {
    for (int h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      sum += static_cast<double>(rows.retained_mass[r * heads + static_cast<std::size_t>(h)]);
    }
  }
  return sum;
}

TraceShape tiny(std::uint64_t seed, int group) {
  TraceShape shape{
      .layers = 1, .query_heads = 2 * group, .kv_heads = 2, .head_dim = 4, .prompt_length = 7, .length = 12};
  shape.seed = seed;
  return shape;
}

}  // namespace

TEST_CASE("oracle_flow retains what the best of all sequences of evictions retains", "[theory]") {
  const std::uint64_t seed = GENERATE(1U, 2U, 3U, 4U);
  const int group = GENERATE(1, 2);
  const int steps = GENERATE(1, 2, 3);
  const int budget = GENERATE(2, 3, 5);
  CAPTURE(seed, group, steps, budget);
  const MemoryTrace trace = random_trace(tiny(seed, group));
  const ReplayCollector results =
      replayed(trace, "oracle_flow(steps=" + std::to_string(steps) + ")", {std::to_string(budget)});
  REQUIRE(results.failed_policies.empty());
  for (int kv_head = 0; kv_head < 2; ++kv_head) {
    const double best = Exhaustive(trace, kv_head, static_cast<std::size_t>(budget), steps).best();
    CHECK(retained(results, trace, kv_head) == Approx(best).margin(1e-5));
  }
}

namespace {

/// An upper bound of what any plan retains, by prices: a place in the cache costs `price[s]` from cut s to the next,
/// and every token stays as long as pays best for it, whatever the others do. With the right prices it is the optimum.
double most_at_prices(const std::vector<std::vector<double>>& gains, const std::vector<std::size_t>& first,
                      const std::vector<double>& price, double budget) {
  double sum = budget * std::accumulate(price.begin(), price.end(), 0.0);
  for (std::size_t j = 0; j < gains.size(); ++j) {
    double best = 0;
    double so_far = 0;
    for (std::size_t s = first[j]; s < price.size(); ++s) {
      so_far += gains[j][s] - price[s];
      best = std::max(best, so_far);
    }
    sum += best;
  }
  return sum;
}

}  // namespace

TEST_CASE("oracle_flow on a long window reaches the least of all bounds by prices, so it is the optimum", "[theory]") {
  const MemoryTrace trace =
      random_trace({.layers = 1, .query_heads = 2, .kv_heads = 1, .head_dim = 8, .prompt_length = 500, .length = 628});
  const std::size_t cuts = 128;
  const double budget = 60;
  const ReplayCollector results = replayed(trace, "oracle_flow", {"60"});
  const ExactLayer exact(trace);
  std::vector<std::vector<double>> gains(628, std::vector<double>(cuts, 0.0));
  std::vector<std::size_t> first(628, 0);
  double own = 0;  // a row is resident when it attends, whatever the plan
  for (std::size_t row = 500; row < 628; ++row) first[row] = row - 500 + 1;
  for (std::size_t s = 0; s < cuts; ++s) {
    for (int h = 0; h < 2; ++h) {
      const std::vector<double> weights = exact.weights(h, static_cast<std::int32_t>(500 + s));
      for (std::size_t j = 0; j + 1 < weights.size(); ++j) gains[j][s] += weights[j];
      own += weights.back();
    }
  }
  const double reached = retained(results, trace, 0) - own;
  std::vector<double> price(cuts, 0.0);
  double least = most_at_prices(gains, first, price, budget);
  double bound = least;
  for (int round = 0; round < 3000; ++round) {  // dearer where too many stay, cheaper where too few: Polyak's steps
    std::vector<double> excess(cuts, -budget);
    for (std::size_t j = 0; j < gains.size(); ++j) {
      double best = 0;
      double so_far = 0;
      std::size_t stay = first[j];
      for (std::size_t s = first[j]; s < cuts; ++s) {
        so_far += gains[j][s] - price[s];
        if (so_far > best) {
          best = so_far;
          stay = s + 1;
        }
      }
      for (std::size_t s = first[j]; s < stay; ++s) ++excess[s];
    }
    const double squares = std::inner_product(excess.begin(), excess.end(), excess.begin(), 0.0);
    if (squares == 0) break;
    const double step = (bound - reached) / squares;
    for (std::size_t s = 0; s < cuts; ++s) price[s] = std::max(0.0, price[s] + step * excess[s]);
    bound = most_at_prices(gains, first, price, budget);
    REQUIRE(reached <= bound + 1e-3);  // float32 sums over 128 rows
    least = std::min(least, bound);
  }
  CHECK(least - reached < 1e-3);
}

TEST_CASE("no policy that cuts at every step retains more than oracle_flow", "[theory]") {
  TraceShape shape{.layers = 1, .query_heads = 4, .kv_heads = 2, .head_dim = 8, .prompt_length = 60, .length = 80};
  const MemoryTrace trace = random_trace(shape);
  for (const char* budget : {"6", "20", "45"}) {
    const ReplayCollector best = replayed(trace, "oracle_flow", {budget});
    for (const char* policy : {"h2o", "tova", "window", "streaming_llm", "keydiff(schedule=every())",
                               "knorm(schedule=every())", "random(schedule=every())"}) {
      CAPTURE(budget, policy);
      const ReplayCollector other = replayed(trace, policy, {budget});
      for (int kv_head = 0; kv_head < 2; ++kv_head) {
        CHECK(retained(other, trace, kv_head) <= retained(best, trace, kv_head) + 1e-4);
      }
    }
  }
}

TEST_CASE("oracle_output drops, one by one, what moves the output least", "[theory]") {
  const std::uint64_t seed = GENERATE(1U, 2U, 3U);
  const int group = GENERATE(1, 2);
  CAPTURE(seed, group);
  const MemoryTrace trace = random_trace(tiny(seed, group));
  const ExactLayer exact(trace);
  const int dim = trace.header.head_dim;
  for (int kv_head = 0; kv_head < 2; ++kv_head) {
    Rows left;
    for (std::int32_t row = 0; row < 7; ++row) left.push_back(row);
    for (std::size_t count = 6; count >= 1; --count) {
      double least = std::numeric_limits<double>::infinity();
      std::int32_t goes = -1;
      for (const std::int32_t candidate : left) {
        double loss = 0;
        for (int h = kv_head * group; h < (kv_head + 1) * group; ++h) {
          for (std::int32_t row = 7; row < 12; ++row) {
            const std::vector<double> weights = exact.weights(h, row);
            std::vector<double> cut(weights.size(), 0.0);
            double mass = 0;
            for (std::int32_t entry = 0; entry <= row; ++entry) {
              const bool stays =
                  entry >= 7 || (entry != candidate && std::find(left.begin(), left.end(), entry) != left.end());
              if (stays) mass += cut[static_cast<std::size_t>(entry)] = weights[static_cast<std::size_t>(entry)];
            }
            for (double& weight : cut) weight /= mass;
            const std::vector<double> full = exact.output(h, weights);
            const std::vector<double> now = exact.output(h, cut);
            for (int c = 0; c < dim; ++c) {
              const double difference = now[static_cast<std::size_t>(c)] - full[static_cast<std::size_t>(c)];
              loss += difference * difference;
            }
          }
        }
        if (loss < least) {
          least = loss;
          goes = candidate;
        }
      }
      left.erase(std::find(left.begin(), left.end(), goes));
      if (count == 1) break;  // a budget of 1 is a share
      const ReplayCollector results = replayed(trace, "oracle_output(batch=1)", {std::to_string(count)});
      CHECK(results.cuts.at({0, 0}).kept[static_cast<std::size_t>(kv_head)] == left);
    }
  }
}

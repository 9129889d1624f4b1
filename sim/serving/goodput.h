#pragma once
/// \file
/// Searches over simulations: the largest rate, and the smallest number of replicas, that meet an objective.

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "sim/serving/serving.h"

namespace evictsim::sim {

struct RateSearch {
  double start = 1;         ///< where bracketing begins, requests per second
  double lowest = 1e-6;     ///< if even this fails, nothing passes
  double highest = 1e9;     ///< if even this passes, there is no limit
  double step = 2;          ///< factor of the first move of the bracket, above 1; every further move squares it
  double tolerance = 0.02;  ///< relative width of the bracket at the end
};

/// The largest rate that passes, assuming that lower rates pass where higher ones do: moved up or down from `start`,
/// ever faster, until one rate passes and one fails, then bisected in logarithms. The rate returned has passed itself.
/// None if `lowest` fails; `highest` if it passes. Calls `passes` at most about 80 times.
std::optional<double> largest_rate(const std::function<bool(double)>& passes, const RateSearch& search);

/// largest_rate() of each of several seeds: that of the first one, then the others from there, at the same time.
std::vector<std::optional<double>> largest_rates(const std::function<bool(double rate, std::uint64_t seed)>& passes,
                                                 const std::vector<std::uint64_t>& seeds, const RateSearch& search);

struct CountSearch {
  std::int64_t least = 1, most = 1;
  std::int64_t start = 1;  ///< where bracketing begins; cheapest a little below the answer
};

/// The smallest number from `least` to `most` that passes, assuming that larger numbers pass where smaller ones do;
/// none if `most` fails. Moved up or down from `start`, ever faster, until one passes and one fails, then bisected.
std::optional<std::int64_t> smallest_count(const std::function<bool(std::int64_t)>& passes, const CountSearch& search);

/// The smallest number that passes with every seed: that of the first one, which the others, at the same time, may
/// raise.
std::optional<std::int64_t> smallest_count(const std::function<bool(std::int64_t count, std::uint64_t seed)>& passes,
                                           const std::vector<std::uint64_t>& seeds, CountSearch search);

/// Whether requests leave as fast as they come, as far as the run can tell. Compares how many are in the system on
/// average in the second and the last quarter of the arrivals: in a steady state they agree, beyond capacity the number
/// grows in proportion to time, by 7/3 between these quarters. In a run of less than eight times its faster requests'
/// (10th percentile) time of service, from the first step to the last token, there is no steady state to look at; it
/// passes if all are done within twice the slower ones' (90th percentile) after the last arrival, so that none waited
/// for a second turn.
bool keeps_up(const ServingResult& result);

}  // namespace evictsim::sim

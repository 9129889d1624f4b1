#include "sim/serving/goodput.h"

#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace evictsim::sim {
namespace {

/// How far the rates of two seeds lie apart, about.
constexpr double near_step = 1.1;

/// Mean number of requests in the system from `begin` to `end`.
double mean_present(const std::vector<RequestRecord>& requests, Time begin, Time end, Time last_event) {
  double sum = 0;
  for (const RequestRecord& request : requests) {
    const Time left = request.finish == not_yet ? last_event : request.finish;
    sum += to_seconds(std::max<Time>(0, std::min(left, end) - std::max(request.arrival, begin)));
  }
  return sum / to_seconds(end - begin);
}

}  // namespace

std::optional<double> largest_rate(const std::function<bool(double)>& passes, const RateSearch& search) {
  double good = 0, bad = 0;
  double rate = std::clamp(search.start, search.lowest, search.highest);
  double step = search.step;
  while (good == 0 || bad == 0) {
    if (passes(rate)) {
      if (rate >= search.highest) return search.highest;
      good = rate;
      rate = std::min(search.highest, step * rate);
    } else {
      if (rate <= search.lowest) return std::nullopt;
      bad = rate;
      rate = std::max(search.lowest, rate / step);
    }
    step = std::min(step * step, 1e6);
  }
  while (bad / good > 1 + search.tolerance) {
    const double middle = std::sqrt(good * bad);
    (passes(middle) ? good : bad) = middle;
  }
  return good;
}

std::vector<std::optional<double>> largest_rates(const std::function<bool(double rate, std::uint64_t seed)>& passes,
                                                 const std::vector<std::uint64_t>& seeds, const RateSearch& search) {
  std::vector<std::optional<double>> rates(seeds.size());
  const auto find = [&](std::size_t index, const RateSearch& from) {
    rates[index] = largest_rate([&](double rate) { return passes(rate, seeds[index]); }, from);
  };
  if (seeds.empty()) return rates;
  find(0, search);
  RateSearch near = search;
  if (rates[0]) {
    near.start = *rates[0];
    near.step = near_step;
  }
  // A thread that waits for the others must not begin a search of another caller meanwhile, and make this one wait.
  tbb::this_task_arena::isolate(
      [&] { tbb::parallel_for(std::size_t{1}, seeds.size(), [&](std::size_t index) { find(index, near); }); });
  return rates;
}

std::optional<std::int64_t> smallest_count(const std::function<bool(std::int64_t)>& passes, const CountSearch& search) {
  // Until one has failed and one has passed, these stand outside the range.
  const std::int64_t below = search.least - 1, above = search.most + 1;
  std::int64_t bad = below, good = above;
  std::int64_t count = std::clamp(search.start, search.least, search.most);
  std::int64_t step = std::max<std::int64_t>(1, count / 32);
  while (good - bad > 1) {
    (passes(count) ? good : bad) = count;
    if (good == above) {
      count = std::min(search.most, bad + step);
      step *= 2;
    } else if (bad == below) {
      count = std::max(search.least, good - step);
      step *= 2;
    } else {
      count = bad + (good - bad) / 2;
    }
  }
  if (good == above) return std::nullopt;
  return good;
}

std::optional<std::int64_t> smallest_count(const std::function<bool(std::int64_t count, std::uint64_t seed)>& passes,
                                           const std::vector<std::uint64_t>& seeds, CountSearch search) {
  std::vector<std::optional<std::int64_t>> counts(seeds.size());
  const auto find = [&](std::size_t index) {
    counts[index] = smallest_count([&](std::int64_t count) { return passes(count, seeds[index]); }, search);
  };
  if (seeds.empty()) return search.least;
  find(0);
  if (!counts[0]) return std::nullopt;
  search.least = search.start = *counts[0];
  tbb::this_task_arena::isolate([&] { tbb::parallel_for(std::size_t{1}, seeds.size(), find); });
  const bool all = std::all_of(counts.begin(), counts.end(), [](const auto& count) { return count.has_value(); });
  return all ? *std::max_element(counts.begin(), counts.end()) : std::nullopt;
}

bool keeps_up(const ServingResult& result) {
  std::vector<double> service;
  Time first = end_of_time, last = 0, finish = 0;
  for (const RequestRecord& request : result.requests) {
    first = std::min(first, request.arrival);
    last = std::max(last, request.arrival);
    if (request.status != RequestStatus::completed) continue;
    finish = std::max(finish, request.finish);
    service.push_back(to_seconds(request.finish - request.scheduled));
  }
  if (service.empty()) return false;
  const auto quantile = [&](std::size_t tenths) {
    const auto place = service.begin() + static_cast<std::ptrdiff_t>(service.size() * tenths / 10);
    std::nth_element(service.begin(), place, service.end());
    return *place;
  };
  const Time span = last - first;
  if (to_seconds(span) < 8 * quantile(1) || span < 4) return to_seconds(finish - last) <= 2 * quantile(9);
  const Time quarter = span / 4;
  const double second = mean_present(result.requests, first + quarter, first + 2 * quarter, result.end);
  const double fourth = mean_present(result.requests, last - quarter, last, result.end);
  // Half way between a steady state and growth, and beyond the noise of a Poisson number.
  return fourth <= 1.5 * second + 3 * std::sqrt(second) + 1;
}

}  // namespace evictsim::sim

#include "sim/memory/hit_ratio.h"

#include <tbb/global_control.h>
#include <tbb/info.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "sim/memory/stack_distance.h"
#include "traces/error.h"

namespace evictsim::sim {
namespace {

using traces::BlockTrace;

constexpr double two_sided_95 = 1.959963984540054;

void check(const BlockTrace& trace, const HitRatioOptions& options) {
  const auto refuse = [](ErrorCode code, const std::string& what, const std::string& parameter,
                         const std::string& value) {
    throw Error(code, what, {.parameter = parameter, .value = value});
  };
  for (const std::uint64_t size : options.sizes) {
    if (size < 1 || size > largest_cache) {
      refuse(ErrorCode::invalid_argument, "expected 1 to 2^53", "cache size", std::to_string(size));
    }
  }
  if (options.sample && !(*options.sample > 0 && *options.sample <= 1)) {
    refuse(ErrorCode::invalid_argument, "expected a share above 0 and at most 1", "sample",
           std::to_string(*options.sample));
  }
  if (options.bytes && trace.sizes.empty()) {
    throw Error(ErrorCode::missing_data, "has no sizes of objects, so caches are counted in objects",
                {.file = trace.name});
  }
  if (trace.references.size() >= 0x80000000U) {
    throw Error(ErrorCode::unsupported, "has 2^31 references or more", {.file = trace.name});
  }
}

template <typename Work>
void in_parallel(int wanted, std::size_t count, const Work& work) {
  const int threads = wanted > 0 ? wanted : tbb::info::default_concurrency();
  const tbb::global_control limit(tbb::global_control::max_allowed_parallelism, static_cast<std::size_t>(threads));
  tbb::task_arena arena(threads);
  arena.execute([&] { tbb::parallel_for(std::size_t{0}, count, work); });
}

/// A trace, and what policies that see the future need.
struct Prepared {
  Prepared(const BlockTrace& ready_trace, const std::vector<Replacement>& policies) : trace(ready_trace) {
    const auto sees_future = [](const Replacement& policy) { return policy.kind->sees_future; };
    if (std::any_of(policies.begin(), policies.end(), sees_future)) next = next_references(trace);
  }
  [[nodiscard]] ReplayCounts replay(const Replacement& policy, std::uint64_t capacity, bool bytes,
                                    bool count_misses) const {
    return policy.kind->replay(policy.parameters, {.trace = &trace,
                                                   .next_references = &next,
                                                   .capacity = capacity,
                                                   .bytes = bytes,
                                                   .count_misses = count_misses});
  }

  const BlockTrace& trace;
  std::vector<std::uint32_t> next;
};

HitRatio row(const Replacement& policy, std::uint64_t size, std::uint64_t references, std::uint64_t hits) {
  return {.policy = policy.text,
          .size = size,
          .references = references,
          .hits = hits,
          .hit_ratio = references == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(references)};
}

std::vector<HitRatio> exact(const BlockTrace& trace, const std::vector<Replacement>& policies,
                            const HitRatioOptions& options) {
  const Prepared prepared(trace, policies);
  const std::size_t sizes = options.sizes.size();
  const bool many = sizes > 1 && !options.bytes;
  // A task is a cell of the matrix, or a whole row where one pass fills it.
  std::vector<std::pair<std::size_t, std::size_t>> tasks;
  for (std::size_t policy = 0; policy < policies.size(); ++policy) {
    const std::size_t passes = many && policies[policy].kind->is_lru ? 1 : sizes;
    for (std::size_t size = 0; size < passes; ++size) tasks.emplace_back(policy, size);
  }
  std::vector<HitRatio> rows(policies.size() * sizes);
  in_parallel(options.threads, tasks.size(), [&](std::size_t task) {
    const auto [index, size] = tasks[task];
    const Replacement& policy = policies[index];
    if (many && policy.kind->is_lru) {
      const std::vector<std::uint64_t> hits = lru_hits(stack_distances(trace), options.sizes);
      for (std::size_t i = 0; i < sizes; ++i) {
        rows[index * sizes + i] = row(policy, options.sizes[i], trace.references.size(), hits[i]);
      }
    } else {
      const std::uint64_t capacity = options.sizes[size];
      const std::uint64_t hits = prepared.replay(policy, capacity, options.bytes, false).hits;
      rows[index * sizes + size] = row(policy, capacity, trace.references.size(), hits);
    }
  });
  return rows;
}

/// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
std::uint64_t hash(std::uint64_t value) {
  value += 0x9e3779b97f4a7c15ULL;
  value = (value ^ (value >> 30U)) * 0xbf58476d1ce4e5b9ULL;
  value = (value ^ (value >> 27U)) * 0x94d049bb133111ebULL;
  return value ^ (value >> 31U);
}

BlockTrace sampled_part(const BlockTrace& trace, double share, std::uint64_t seed) {
  constexpr Object unsampled = 0xffffffffU;
  constexpr double hashes = 18446744073709551616.0;  // 2^64
  std::vector<Object> numbers(trace.objects, unsampled);
  BlockTrace part;
  part.name = trace.name;
  for (Object object = 0; object < trace.objects; ++object) {
    if (static_cast<double>(hash(hash(seed) ^ object)) < share * hashes || share >= 1) numbers[object] = part.objects++;
  }
  auto end = trace.request_ends.begin();
  for (std::size_t i = 0; i < trace.references.size(); ++i) {
    if (const Object number = numbers[trace.references[i]]; number != unsampled) {
      part.references.push_back(number);
      if (!trace.sizes.empty()) part.sizes.push_back(trace.sizes[i]);
    }
    if (end != trace.request_ends.end() && i + 1 == *end) {
      part.request_ends.push_back(part.references.size());
      ++end;
    }
  }
  return part;
}

/// Estimates of one policy at one size.
class Estimate {
 public:
  Estimate(const Prepared& prepared, const Replacement& policy, bool bytes, double share, std::uint64_t references)
      : prepared_(prepared),
        policy_(policy),
        bytes_(bytes),
        share_(share),
        represented_(static_cast<double>(references) * share) {}

  HitRatio at(std::uint64_t size, std::uint64_t references) const {
    const double scaled = static_cast<double>(size) * share_;
    const ReplayCounts counts = replay(scaled);
    double squares = 0;
    for (const std::uint32_t misses : counts.misses) squares += static_cast<double>(misses) * misses;
    const double of_total = two_sided_95 * std::sqrt((1 - share_) * squares) / represented_;
    // In bytes the number of objects within the cache follows from their mean size.
    const double per_object = bytes_ ? mean_size() : 1;
    const double spread = two_sided_95 * std::sqrt(scaled / per_object * (1 - share_)) * per_object;
    double of_size = 0;
    if (spread > 0) of_size = (hit_ratio(replay(scaled + spread)) - hit_ratio(replay(scaled - spread))) / 2;
    HitRatio result = row(policy_, size, references, 0);
    result.hit_ratio = hit_ratio(counts);
    result.hits = static_cast<std::uint64_t>(std::llround(result.hit_ratio * static_cast<double>(references)));
    result.error = of_total + of_size;
    return result;
  }

 private:
  [[nodiscard]] ReplayCounts replay(double scaled) const {
    const auto capacity = static_cast<std::uint64_t>(std::max(1.0, std::round(scaled)));
    return prepared_.replay(policy_, capacity, bytes_, true);
  }
  [[nodiscard]] double hit_ratio(const ReplayCounts& counts) const {
    double misses = 0;
    for (const std::uint32_t of_object : counts.misses) misses += of_object;
    // Below 0 when frequent objects that miss happen to be sampled.
    return std::max(0.0, (represented_ - misses) / represented_);
  }
  [[nodiscard]] double mean_size() const {
    double sum = 0;
    for (const std::uint64_t size : prepared_.trace.sizes) sum += static_cast<double>(size);
    return sum / static_cast<double>(std::max<std::size_t>(1, prepared_.trace.sizes.size()));
  }

  const Prepared& prepared_;
  const Replacement& policy_;
  bool bytes_;
  double share_;
  double represented_;  ///< references that the sample stands for
};

std::vector<HitRatio> sampled(const BlockTrace& trace, const std::vector<Replacement>& policies,
                              const HitRatioOptions& options) {
  const double share = *options.sample;
  const BlockTrace part = sampled_part(trace, share, options.seed);
  for (const std::uint64_t size : options.sizes) {
    if (static_cast<double>(size) * share >= 1 && part.objects > 0) continue;
    throw Error(
        ErrorCode::unsupported,
        "a cache of " + std::to_string(size) + " holds less than one of the sampled objects; a larger share is needed",
        {.parameter = "sample", .value = std::to_string(share)});
  }
  const Prepared prepared(part, policies);
  std::vector<HitRatio> rows(policies.size() * options.sizes.size());
  in_parallel(options.threads, rows.size(), [&](std::size_t cell) {
    const Replacement& policy = policies[cell / options.sizes.size()];
    rows[cell] = Estimate(prepared, policy, options.bytes, share, trace.references.size())
                     .at(options.sizes[cell % options.sizes.size()], trace.references.size());
  });
  return rows;
}

}  // namespace

std::vector<std::uint32_t> next_references(const BlockTrace& trace) {
  std::vector<std::uint32_t> next(trace.references.size());
  std::vector<std::uint32_t> upcoming(trace.objects);
  for (std::size_t i = trace.references.size(); i-- > 0;) {
    std::uint32_t& of_object = upcoming[trace.references[i]];
    next[i] = of_object;
    of_object = static_cast<std::uint32_t>(i);
  }
  return next;
}

std::vector<HitRatio> hit_ratios(const BlockTrace& trace, const std::vector<Replacement>& policies,
                                 const HitRatioOptions& options) {
  check(trace, options);
  return options.sample ? sampled(trace, policies, options) : exact(trace, policies, options);
}

}  // namespace evictsim::sim

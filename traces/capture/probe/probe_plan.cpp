#include "traces/capture/probe/probe_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <numeric>
#include <utility>

#include "traces/capture/probe/statistics.h"
#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

const char* name_of(ElementType type) {
  switch (type) {
    case ElementType::f32:
      return "f32";
    case ElementType::f16:
      return "f16";
    case ElementType::bf16:
      return "bf16";
    case ElementType::fp8_e4m3:
      return "fp8_e4m3";
    case ElementType::fp8_e5m2:
      break;
  }
  return "fp8_e5m2";
}

/// "NVIDIA H100 80GB HBM3" becomes nvidia-h100-80gb-hbm3.
std::string short_name(const std::string& device) {
  std::string name;
  for (const char character : device) {
    const auto code = static_cast<unsigned char>(character);
    if (std::isalnum(code) != 0) {
      name += static_cast<char>(std::tolower(code));
    } else if (!name.empty() && name.back() != '-') {
      name += '-';
    }
  }
  while (!name.empty() && name.back() == '-') name.pop_back();
  return name.empty() ? "gpu" : name;
}

/// Points of one quantity, and what a fit needs of them.
class Series {
 public:
  Series(const ProbePlan& plan, std::string quantity, models::Gpu& gpu)
      : plan_(plan), quantity_(std::move(quantity)), gpu_(gpu) {}

  [[nodiscard]] int repeats() const { return plan_.warm_up + plan_.repeats; }

  void add(std::map<std::string, double> conditions, const std::vector<double>& seconds, std::vector<double> row) {
    const TimeSummary summary = summarise_times(seconds, static_cast<std::size_t>(plan_.warm_up));
    gpu_.measurements.push_back({quantity_, std::move(conditions), summary.median, summary.spread,
                                 static_cast<std::int64_t>(summary.samples),
                                 static_cast<std::int64_t>(summary.outliers)});
    rows_.push_back(std::move(row));
    times_.push_back(summary.median);
  }
  void add_transfer(std::size_t bytes, const std::vector<double>& seconds, std::map<std::string, double> more = {}) {
    const auto amount = static_cast<double>(bytes);
    more["bytes"] = amount;
    add(std::move(more), seconds, {1, amount});
  }

  [[nodiscard]] bool empty() const { return rows_.empty(); }
  [[nodiscard]] NonNegativeFit fit() const { return fit_non_negative(rows_, times_); }
  [[nodiscard]] models::TransferRate transfer_rate() const {
    const NonNegativeFit found = fit();
    if (!(found.coefficients[1] > 0)) {
      throw Error(ErrorCode::device_failure, "times do not grow with the bytes, so there is no bandwidth",
                  {.file = {}, .dataset = quantity_, .parameter = {}, .value = {}});
    }
    return {found.coefficients[0], 1 / found.coefficients[1], found.largest_relative_error};
  }

 private:
  const ProbePlan& plan_;
  std::string quantity_;
  models::Gpu& gpu_;
  std::vector<std::vector<double>> rows_;
  std::vector<double> times_;
};

struct Session {
  ProbeDevice& device;
  const ProbePlan& plan;
  const std::function<void(const std::string&)>& progress;
  std::int64_t room;  ///< bytes of device memory that a case may take
  models::Gpu gpu;
};

void measure_copies(Session& session) {
  struct Way {
    const char* name;
    Direction direction;
    HostMemory memory;
    std::optional<models::TransferRate> models::Gpu::*result;
  };
  const Way ways[] = {{"host_to_device", Direction::host_to_device, HostMemory::pinned, &models::Gpu::host_to_device},
                      {"device_to_host", Direction::device_to_host, HostMemory::pinned, &models::Gpu::device_to_host},
                      {"host_to_device_pageable", Direction::host_to_device, HostMemory::pageable,
                       &models::Gpu::host_to_device_pageable},
                      {"device_to_host_pageable", Direction::device_to_host, HostMemory::pageable,
                       &models::Gpu::device_to_host_pageable}};
  for (const Way& way : ways) {
    session.progress(way.name);
    Series series(session.plan, way.name, session.gpu);
    for (const std::size_t bytes : session.plan.copy_bytes) {
      if (static_cast<std::int64_t>(bytes) > session.room) continue;
      series.add_transfer(bytes, session.device.copy(way.direction, way.memory, bytes, series.repeats()));
    }
    session.gpu.*way.result = series.transfer_rate();
  }
}

void measure_peers(Session& session) {
  for (const int peer : session.device.peers()) {
    session.progress(fmt::format("copies to device {}", peer));
    Series series(session.plan, "peer", session.gpu);
    for (const std::size_t bytes : session.plan.copy_bytes) {
      if (static_cast<std::int64_t>(bytes) > session.room) continue;
      series.add_transfer(bytes, session.device.copy_to_peer(peer, bytes, series.repeats()),
                          {{"peer", static_cast<double>(peer)}});
    }
    const models::TransferRate rate = series.transfer_rate();
    // What runs over several GPUs waits for the slowest link.
    if (!session.gpu.peer || rate.bytes_per_second < session.gpu.peer->bytes_per_second) session.gpu.peer = rate;
  }
}

void measure_memory(Session& session, std::int64_t l2_bytes) {
  session.progress("reading memory");
  constexpr std::int64_t usual_l2 = std::int64_t{64} << 20;
  const std::int64_t unit = l2_bytes > 0 ? l2_bytes : usual_l2;
  Series series(session.plan, "memory_read", session.gpu);
  for (const int times : session.plan.read_times_l2) {
    const std::int64_t bytes = times * unit / 16 * 16;
    if (bytes > session.room) continue;
    series.add_transfer(static_cast<std::size_t>(bytes),
                        session.device.read_memory(static_cast<std::size_t>(bytes), series.repeats()));
  }
  if (series.empty()) {
    throw Error(ErrorCode::out_of_memory,
                fmt::format("less than {} bytes of device memory are free, too few to measure "
                            "its bandwidth beyond the L2 cache",
                            8 * unit));
  }
  session.gpu.memory_bytes_per_second = series.transfer_rate().bytes_per_second;
}

void measure_attention(Session& session, std::int64_t l2_bytes) {
  const ProbePlan& plan = session.plan;
  session.progress("decode attention");
  Series series(plan, "decode_attention", session.gpu);
  const auto entry_bytes = 2 * plan.width * static_cast<std::int64_t>(element_bytes(plan.type));
  for (const int sequences : plan.sequences) {
    for (const int mean : plan.mean_entries) {
      for (const double raggedness : plan.raggedness) {
        AttentionCase step{plan.type, plan.group, plan.width, 0,
                           ragged_lengths(static_cast<std::size_t>(sequences) * static_cast<std::size_t>(plan.kv_heads),
                                          mean, raggedness)};
        for (const int page_size : plan.page_sizes) {
          step.page_size = page_size;
          const std::int64_t cache = step.pages() * page_size * entry_bytes;
          if (cache + 4 * l2_bytes > session.room) continue;
          const auto entries = static_cast<double>(step.entries());
          const auto pages = static_cast<double>(step.pages());
          const auto longest = static_cast<double>(step.longest());
          series.add({{"sequences", sequences},
                      {"kv_heads", plan.kv_heads},
                      {"page_size", page_size},
                      {"raggedness", raggedness},
                      {"entries", entries},
                      {"pages", pages},
                      {"longest", longest}},
                     session.device.attend(step, series.repeats()), {1, entries, pages, longest});
        }
      }
    }
  }
  if (series.empty()) return;
  const NonNegativeFit fit = series.fit();
  session.gpu.decode_attention = models::DecodeAttentionRate{
      name_of(plan.type),  plan.group,          plan.width,          fit.coefficients[0],
      fit.coefficients[1], fit.coefficients[2], fit.coefficients[3], fit.largest_relative_error};
}

}  // namespace

std::int64_t AttentionCase::entries() const { return std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0}); }

std::int64_t AttentionCase::pages() const {
  std::int64_t pages = 0;
  for (const std::int32_t length : lengths) pages += (static_cast<std::int64_t>(length) + page_size - 1) / page_size;
  return pages;
}

std::int64_t AttentionCase::longest() const {
  return lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
}

ProbePlan quick_plan() {
  ProbePlan plan;
  plan.warm_up = 2;
  plan.repeats = 5;
  plan.copy_bytes = {4, 64U << 10, 1U << 20, 16U << 20};
  plan.read_times_l2 = {4, 8};
  plan.sequences = {1, 8};
  plan.mean_entries = {256, 2048};
  plan.page_sizes = {16, 256};
  return plan;
}

std::vector<std::int32_t> ragged_lengths(std::size_t heads, int mean, double raggedness) {
  std::vector<double> weights(heads, 1);
  double sum = static_cast<double>(heads);
  if (heads > 1) {
    sum = 0;
    for (std::size_t i = 0; i < heads; ++i) {
      // Steps of about the golden ratio visit every place once and keep neighbours apart.
      std::size_t stride = std::max<std::size_t>(1, static_cast<std::size_t>(0.618 * static_cast<double>(heads)));
      while (std::gcd(stride, heads) != 1) ++stride;
      weights[i] = std::pow(raggedness, static_cast<double>(i * stride % heads) / static_cast<double>(heads - 1));
      sum += weights[i];
    }
  }
  std::vector<std::int32_t> lengths;
  for (const double weight : weights) {
    const double length = std::round(weight / sum * static_cast<double>(heads) * mean);
    lengths.push_back(std::max(1, static_cast<std::int32_t>(length)));
  }
  return lengths;
}

models::Gpu probe(ProbeDevice& device, const ProbePlan& plan, const std::optional<models::Gpu>& base,
                  const std::string& software, const std::function<void(const std::string&)>& progress) {
  const DeviceFacts facts = device.facts();
  Session session{device, plan, progress, facts.free_bytes / 2, {}};
  models::Gpu& gpu = session.gpu;
  gpu.name = short_name(facts.name);
  gpu.product = facts.name;
  gpu.device_names = {facts.name};
  gpu.measured = true;
  gpu.sources = {fmt::format("measured by {} with {}", software, facts.software)};
  gpu.compute_capability = facts.compute_capability;
  gpu.multiprocessors = facts.multiprocessors;
  gpu.memory_bytes = base ? base->memory_bytes : facts.total_bytes;
  gpu.visible_bytes = facts.total_bytes;
  if (facts.l2_bytes > 0) gpu.l2_bytes = facts.l2_bytes;
  if (base) {
    gpu.flops_per_second = base->flops_per_second;
    gpu.sources.push_back(fmt::format("not measured: flops_per_second and memory.bytes are those of {}", base->name));
  }
  measure_memory(session, facts.l2_bytes);
  measure_copies(session);
  measure_peers(session);
  measure_attention(session, facts.l2_bytes);
  return std::move(session.gpu);
}

}  // namespace evictsim::traces::capture

#include "traces/capture/probe/activity.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <fstream>
#include <iterator>
#include <set>
#include <utility>

#include "traces/capture/probe/statistics.h"
#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

struct NameRule {
  std::string_view word;  ///< lower case
  KernelClass of;
};

// The table of docs/gpu.md, in its order.
constexpr auto name_rules = std::to_array<NameRule>({
    // Fused pointwise kernels carry the names of what surrounds them.
    {"triton_poi_", KernelClass::other},
    {"triton_red_", KernelClass::other},
    {"triton_per_", KernelClass::other},
    {"reshape_and_cache", KernelClass::other},
    {"concat_and_cache", KernelClass::other},
    {"rotary", KernelClass::other},
    {"nccl", KernelClass::collective},
    {"all_reduce", KernelClass::collective},
    {"allreduce", KernelClass::collective},
    {"all_gather", KernelClass::collective},
    {"allgather", KernelClass::collective},
    {"reduce_scatter", KernelClass::collective},
    {"reducescatter", KernelClass::collective},
    {"all_to_all", KernelClass::collective},
    {"alltoall", KernelClass::collective},
    {"cross_device_reduce", KernelClass::collective},
    {"multimem", KernelClass::collective},
    {"nvshmem", KernelClass::collective},
    {"deep_ep", KernelClass::collective},
    // Not "flash" alone: FlashInfer's namespace also holds norms, sampling and activations.
    {"flash_fwd", KernelClass::attention},
    {"flash_attn", KernelClass::attention},
    {"flashattn", KernelClass::attention},
    {"flash_mla", KernelClass::attention},
    {"flash_decod", KernelClass::attention},
    {"fmha", KernelClass::attention},
    {"attention", KernelClass::attention},
    {"attn", KernelClass::attention},
    {"withkvcache", KernelClass::attention},
    {"withpagedkvcache", KernelClass::attention},
    {"withraggedkvcache", KernelClass::attention},
    {"mergestate", KernelClass::attention},
    {"mla_", KernelClass::attention},
    {"_fwd_kernel_stage", KernelClass::attention},
    {"_fwd_grouped_kernel_stage", KernelClass::attention},
    {"gemm", KernelClass::gemm},
    {"gemv", KernelClass::gemm},
    {"bmm_", KernelClass::gemm},
    {"nvjet", KernelClass::gemm},
    {"xmma", KernelClass::gemm},
    {"cutlass", KernelClass::gemm},
    {"cublas", KernelClass::gemm},
    {"splitkreduce", KernelClass::gemm},
    {"marlin", KernelClass::gemm},
    {"machete", KernelClass::gemm},
    {"matmul", KernelClass::gemm},
    {"mul_mat", KernelClass::gemm},
    {"fused_moe", KernelClass::gemm},
    {"triton_tem_fused_mm", KernelClass::gemm},
    {"triton_tem_fused_addmm", KernelClass::gemm},
});

constexpr double nanosecond = 1e-9;

/// What one step took.
struct Step {
  double span = 0, idle = 0;
  std::array<double, 4> of_class{};
};

/// `kernels` by start.
Step measure(std::span<const KernelRecord> kernels) {
  Step step;
  std::int64_t covered = kernels.front().start;  // everything before has been counted
  std::int64_t busy = 0;
  for (const KernelRecord& kernel : kernels) {
    step.of_class[static_cast<std::size_t>(classify_kernel(kernel.name))] +=
        static_cast<double>(kernel.end - kernel.start) * nanosecond;
    busy += std::max<std::int64_t>(0, kernel.end - std::max(kernel.start, covered));
    covered = std::max(covered, kernel.end);
  }
  const std::int64_t span = covered - kernels.front().start;
  step.span = static_cast<double>(span) * nanosecond;
  step.idle = static_cast<double>(span - busy) * nanosecond;
  return step;
}

/// First and one past the last kernel of every step.
std::vector<std::pair<std::size_t, std::size_t>> cut(const std::vector<KernelRecord>& kernels, const StepRule& rule) {
  std::vector<std::pair<std::size_t, std::size_t>> steps;
  std::size_t first = 0;
  const auto close = [&](std::size_t end) {
    if (static_cast<std::int64_t>(end - first) >= rule.fewest_kernels) steps.emplace_back(first, end);
    first = end;
  };
  std::int64_t covered = kernels.front().end;
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    if (rule.last_kernel.empty()) {
      if (kernels[i].start - covered >= rule.gap) close(i);
      covered = std::max(covered, kernels[i].end);
    } else if (kernels[i].name.find(rule.last_kernel) != std::string::npos) {
      close(i + 1);
    }
  }
  if (rule.last_kernel.empty()) close(kernels.size());
  return steps;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return quantile(values, 0.5);
}

}  // namespace

KernelClass classify_kernel(std::string_view name) {
  std::string lower(name);
  for (char& character : lower) character = static_cast<char>(std::tolower(static_cast<unsigned char>(character)));
  for (const NameRule& rule : name_rules) {
    if (lower.find(rule.word) != std::string::npos) return rule.of;
  }
  return KernelClass::other;
}

models::EngineSteps reduce_activity(std::span<const KernelRecord> records, const StepRule& rule) {
  std::vector<KernelRecord> kernels;
  std::copy_if(records.begin(), records.end(), std::back_inserter(kernels),
               [&](const KernelRecord& kernel) { return kernel.device == rule.device; });
  for (const KernelRecord& kernel : kernels) {
    if (kernel.end >= kernel.start) continue;
    throw Error(ErrorCode::invalid_value, "a kernel ends before it starts",
                {.file = {}, .dataset = {}, .parameter = "name", .value = kernel.name});
  }
  std::stable_sort(kernels.begin(), kernels.end(), [](const auto& a, const auto& b) { return a.start < b.start; });
  if (kernels.empty()) {
    std::set<int> devices;
    for (const KernelRecord& record : records) devices.insert(record.device);
    throw Error(ErrorCode::missing_data,
                devices.empty()
                    ? "there are no kernels"
                    : fmt::format("no kernel ran there; there are kernels of device {}", fmt::join(devices, ", ")),
                {.file = {}, .dataset = {}, .parameter = "activity-device", .value = std::to_string(rule.device)});
  }
  auto steps = cut(kernels, rule);
  if (steps.size() <= rule.skip) {
    throw Error(
        ErrorCode::missing_data,
        fmt::format(
            "{} kernels of device {} make {} steps, of which {} are to be skipped; name the kernel that ends a step "
            "(step-end), or a gap that is shorter than the pauses between steps (step-gap)",
            kernels.size(), rule.device, steps.size(), rule.skip));
  }
  steps.erase(steps.begin(), steps.begin() + static_cast<std::ptrdiff_t>(rule.skip));

  std::vector<double> spans, idles;
  std::array<std::vector<double>, 4> classes;
  for (const auto& [first, end] : steps) {
    const Step step = measure(std::span(kernels).subspan(first, end - first));
    spans.push_back(step.span);
    idles.push_back(step.idle);
    for (std::size_t i = 0; i < classes.size(); ++i) classes[i].push_back(step.of_class[i]);
  }
  const auto of = [&](KernelClass kind) { return median(classes[static_cast<std::size_t>(kind)]); };
  models::EngineSteps result;
  result.steps = static_cast<std::int64_t>(steps.size());
  result.span_seconds = median(spans);
  result.idle_seconds = median(idles);
  result.attention_seconds = of(KernelClass::attention);
  result.gemm_seconds = of(KernelClass::gemm);
  result.collective_seconds = of(KernelClass::collective);
  result.other_seconds = of(KernelClass::other);
  return result;
}

std::vector<KernelRecord> read_activity(const std::filesystem::path& file) {
  ErrorContext where{.file = file.string(), .dataset = {}, .parameter = {}, .value = {}};
  std::error_code failure;
  if (!std::filesystem::exists(file, failure)) throw Error(ErrorCode::file_not_found, "the file does not exist", where);
  std::ifstream stream(file, std::ios::binary);
  if (!stream || std::filesystem::is_directory(file, failure)) {
    throw Error(ErrorCode::permission_denied, "the file cannot be read", where);
  }
  const auto refuse_head = [&where]() {
    where.dataset = "line 1";
    throw Error(ErrorCode::invalid_value, "the first line must be device,start_ns,end_ns,name", where);
  };
  std::vector<KernelRecord> records;
  std::string line;
  std::size_t number = 1;
  for (; std::getline(stream, line); ++number) {
    if (stream.eof()) break;  // no line end: not all of it was written
    where.dataset = fmt::format("line {}", number);
    if (number == 1) {
      if (line != "device,start_ns,end_ns,name") refuse_head();
      continue;
    }
    KernelRecord record;
    const char* place = line.data();
    const char* const end = place + line.size();
    const auto number_before_comma = [&](auto& value) {
      const auto [behind, failed] = std::from_chars(place, end, value);
      if (failed != std::errc{} || behind == end || *behind != ',' || value < 0) return false;
      place = behind + 1;
      return true;
    };
    const bool good = number_before_comma(record.device) && number_before_comma(record.start) &&
                      number_before_comma(record.end) && record.end >= record.start;
    record.name.assign(place, end);
    if (!good || record.name.empty()) {
      throw Error(ErrorCode::invalid_value, "must be a device, a start and a later end in nanoseconds, and a name",
                  where);
    }
    records.push_back(std::move(record));
  }
  if (number == 1) refuse_head();
  return records;
}

}  // namespace evictsim::traces::capture

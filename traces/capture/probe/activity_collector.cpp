/// \file
/// libevictsim_activity.so: loaded into a running engine by CUDA itself (CUDA_INJECTION64_PATH), writes one line per
/// kernel to the file named by EVICTSIM_ACTIVITY, where %p stands for the process. Reports its own failures on the
/// engine's standard error and never stops it. What is written is described in docs/gpu.md.

#include <cupti.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>

namespace {

#if CUPTI_API_VERSION >= 130000
using KernelActivity = CUpti_ActivityKernel10;
#else
using KernelActivity = CUpti_ActivityKernel9;
#endif

constexpr std::size_t buffer_bytes = std::size_t{4} << 20;
constexpr std::size_t buffer_alignment = 8;

struct Output {
  std::FILE* file = nullptr;
  std::mutex mutex;
};

/// Never destroyed: CUPTI's threads may outlive static objects.
Output& output() {
  static Output* const instance = new Output;
  return *instance;
}

bool succeeded(CUptiResult result, const char* doing) {
  if (result == CUPTI_SUCCESS) return true;
  const char* text = nullptr;
  cuptiGetResultString(result, &text);
  std::fprintf(stderr, "evictsim: activity is not recorded, CUPTI failed while %s: %s\n", doing,
               text == nullptr ? "unknown error" : text);
  return false;
}

void CUPTIAPI give_buffer(std::uint8_t** buffer, std::size_t* size, std::size_t* most_records) {
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(buffer_alignment, buffer_bytes));
  *size = *buffer == nullptr ? 0 : buffer_bytes;
  *most_records = 0;
}

void CUPTIAPI take_buffer(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t, std::size_t valid) {
  const std::scoped_lock lock(output().mutex);
  CUpti_Activity* record = nullptr;
  while (output().file != nullptr && valid > 0 && cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind != CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) continue;
    const auto* const kernel = reinterpret_cast<const KernelActivity*>(record);
    if (kernel->name == nullptr || kernel->start == 0 || kernel->end < kernel->start) continue;
    std::fprintf(output().file, "%u,%llu,%llu,%s\n", kernel->deviceId, static_cast<unsigned long long>(kernel->start),
                 static_cast<unsigned long long>(kernel->end), kernel->name);
  }
  if (output().file != nullptr) std::fflush(output().file);
  std::free(buffer);
}

void flush() { static_cast<void>(cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED)); }

}  // namespace

/// Called once by the CUDA driver when it initialises; 1: done.
extern "C" __attribute__((visibility("default"))) int InitializeInjection() {
  const char* const given = std::getenv("EVICTSIM_ACTIVITY");
  std::string path = given == nullptr ? "" : given;
  if (const std::size_t process = path.find("%p"); process != std::string::npos) {
    path.replace(process, 2, std::to_string(getpid()));  // engines run a process per device
  }
  if (path.empty()) {
    std::fprintf(stderr, "evictsim: activity is not recorded, EVICTSIM_ACTIVITY names no file\n");
    return 1;
  }
  output().file = std::fopen(path.c_str(), "w");
  if (output().file == nullptr) {
    std::fprintf(stderr, "evictsim: activity is not recorded, %s cannot be written\n", path.c_str());
    return 1;
  }
  std::fputs("device,start_ns,end_ns,name\n", output().file);
  constexpr std::uint32_t flush_milliseconds = 1000;
  if (succeeded(cuptiActivityRegisterCallbacks(give_buffer, take_buffer), "registering") &&
      succeeded(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL), "asking for kernels") &&
      succeeded(cuptiActivityFlushPeriod(flush_milliseconds), "setting the period")) {
    std::atexit(flush);
  }
  return 1;
}

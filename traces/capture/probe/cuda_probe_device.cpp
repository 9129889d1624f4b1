#include "traces/capture/probe/cuda_probe_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <utility>

#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

void require_shape(const AttentionCase& step) {
  const int wide = pack_elements(step.type);
  const bool fits = step.group >= 1 && step.group <= most_group && step.width >= wide && step.width <= most_width &&
                    step.width % wide == 0 && step.page_size >= 1 && !step.lengths.empty() &&
                    std::all_of(step.lengths.begin(), step.lengths.end(), [](auto length) { return length >= 0; });
  if (fits) return;
  throw Error(ErrorCode::invalid_argument,
              fmt::format("the kernel takes groups of 1 to {}, widths up to {} in steps of {}, pages of at least one "
                          "entry and at least one head, whose length is not negative; not a group of {}, a width of "
                          "{}, pages of {} and {} heads",
                          most_group, most_width, wide, step.group, step.width, step.page_size, step.lengths.size()));
}

/// Numbers in [-1, 1) of any type, the same on every machine.
std::vector<unsigned char> made_up_numbers(ElementType type, std::int64_t count, std::uint32_t seed) {
  std::vector<unsigned char> bytes(static_cast<std::size_t>(count) * element_bytes(type));
  std::mt19937 generator(seed);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto draw = static_cast<std::uint32_t>(generator());
    if (element_bytes(type) == 1) {
      // Float8: any sign and mantissa, exponents up to that of 0.5.
      const std::uint32_t mantissa_bits = type == ElementType::fp8_e4m3 ? 3 : 2;
      const std::uint32_t exponents = type == ElementType::fp8_e4m3 ? 7 : 15;
      bytes[static_cast<std::size_t>(i)] = static_cast<unsigned char>(
          (draw & 0x80U) | (draw >> 8) % exponents << mantissa_bits | (draw & ((1U << mantissa_bits) - 1)));
    } else {
      store_element(bytes.data(), type, i, static_cast<float>(draw >> 8) * 0x1p-23F - 1);
    }
  }
  return bytes;
}

class CudaProbeDevice final : public ProbeDevice {
 public:
  CudaProbeDevice(std::shared_ptr<CudaRuntime> runtime, std::unique_ptr<ProbeCalls> calls, int device)
      : runtime_(std::move(runtime)),
        calls_(std::move(calls)),
        device_(device),
        current_(*runtime_, device),
        stream_(CudaResource::stream(*runtime_)) {}

  DeviceFacts facts() override {
    DeviceFacts facts;
    require(calls_->facts(device_, facts), "asking for the device's properties");
    return facts;
  }

  std::vector<int> peers() override {
    std::vector<int> peers;
    require(calls_->peers(device_, peers), "asking for peers");
    return peers;
  }

  std::vector<double> copy(Direction direction, HostMemory memory, std::size_t bytes, int repeats) override {
    const CudaResource on_device = CudaResource::device_memory(*runtime_, bytes);
    const CudaResource pinned =
        memory == HostMemory::pinned ? CudaResource::pinned_memory(*runtime_, bytes) : CudaResource();
    // Touched once, so that page faults are not measured.
    std::vector<unsigned char> pageable(memory == HostMemory::pageable ? bytes : 0, 1);
    void* const host = memory == HostMemory::pinned ? pinned.get() : pageable.data();
    std::memset(host, 1, bytes);
    const StreamDrain drain(*runtime_, stream_.get());
    return timed_by_host(repeats, [&] {
      require(direction == Direction::host_to_device
                  ? runtime_->copy_to_device(on_device.get(), host, bytes, stream_.get())
                  : runtime_->copy_to_host(host, on_device.get(), bytes, stream_.get()),
              "copying");
    });
  }

  std::vector<double> copy_to_peer(int peer, std::size_t bytes, int repeats) override {
    const CudaResource source = CudaResource::device_memory(*runtime_, bytes);
    CudaResource target;
    {
      const CurrentDevice other(*runtime_, peer);
      target = CudaResource::device_memory(*runtime_, bytes);
    }
    const StreamDrain drain(*runtime_, stream_.get());
    return timed_by_host(repeats, [&] {
      require(calls_->copy_between(target.get(), source.get(), bytes, stream_.get()), "copying to a peer");
    });
  }

  std::vector<double> read_memory(std::size_t bytes, int repeats) override {
    const CudaResource memory = CudaResource::device_memory(*runtime_, bytes);
    constexpr std::int64_t teams_per_multiprocessor = 16;
    MemoryRead job;
    job.data = static_cast<const Pack*>(memory.get());
    job.packs = static_cast<std::int64_t>(bytes / sizeof(Pack));
    job.rows = std::max(1, facts().multiprocessors) * teams_per_multiprocessor;
    const CudaResource sums =
        CudaResource::device_memory(*runtime_, static_cast<std::size_t>(job.rows) * sizeof(std::uint32_t));
    job.sums = static_cast<std::uint32_t*>(sums.get());
    const StreamDrain drain(*runtime_, stream_.get());
    return timed_by_device(repeats, [&](int) { require(runtime_->launch(job, stream_.get()), "reading memory"); });
  }

  std::vector<double> attend(const AttentionCase& step, int repeats) override {
    PagedCacheMemory memory(*runtime_, stream_.get(), step, facts().l2_bytes);
    return timed_by_device(repeats, [&](int repeat) { memory.launch(repeat); });
  }

 private:
  /// From the call to the end of the copy, as a program sees it.
  template <typename Work>
  std::vector<double> timed_by_host(int repeats, const Work& work) {
    std::vector<double> seconds;
    for (int i = 0; i < repeats; ++i) {
      const auto start = std::chrono::steady_clock::now();
      work();
      require(runtime_->synchronize_stream(stream_.get()), "waiting for a copy");
      seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return seconds;
  }

  /// On the device, from the first kernel to the end of the last one.
  template <typename Work>
  std::vector<double> timed_by_device(int repeats, const Work& work) {
    std::vector<double> seconds;
    for (int i = 0; i < repeats; ++i) {
      double taken = 0;
      require(calls_->start_clock(stream_.get()), "starting the clock");
      work(i);
      require(calls_->stop_clock(stream_.get(), taken), "measuring a kernel");
      seconds.push_back(taken);
    }
    return seconds;
  }

  std::shared_ptr<CudaRuntime> runtime_;
  std::unique_ptr<ProbeCalls> calls_;
  int device_;
  CurrentDevice current_;
  CudaResource stream_;
};

}  // namespace

std::int64_t cache_copies(std::int64_t bytes, std::int64_t l2_bytes) {
  constexpr std::int64_t times = 4;
  if (bytes <= 0) return 1;
  return std::max<std::int64_t>(1, (times * l2_bytes + bytes - 1) / bytes);
}

PagedCacheMemory::PagedCacheMemory(CudaRuntime& runtime, CudaStream stream, const AttentionCase& step,
                                   std::int64_t l2_bytes)
    : runtime_(runtime), stream_(stream), drain_(runtime, stream) {
  require_shape(step);
  const auto rows = static_cast<std::int64_t>(step.lengths.size());
  const std::int64_t row_pages = (step.longest() + step.page_size - 1) / step.page_size;
  const std::int64_t used_pages = step.pages();
  const auto page_bytes = static_cast<std::int64_t>(element_bytes(step.type)) * step.page_size * step.width;
  copies_ = cache_copies(2 * used_pages * page_bytes, l2_bytes);
  pool_pages_ = std::max<std::int64_t>(1, copies_ * used_pages);

  std::vector<std::int32_t> shuffled(static_cast<std::size_t>(pool_pages_));
  std::iota(shuffled.begin(), shuffled.end(), 0);
  std::shuffle(shuffled.begin(), shuffled.end(), std::minstd_rand(1));
  std::vector<std::int32_t> tables(static_cast<std::size_t>(std::max<std::int64_t>(1, copies_ * rows * row_pages)), 0);
  std::size_t next = 0;
  for (std::int64_t copy = 0; copy < copies_; ++copy) {
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t pages = (step.lengths[static_cast<std::size_t>(row)] + step.page_size - 1) / step.page_size;
      for (std::int64_t page = 0; page < pages; ++page) {
        tables[static_cast<std::size_t>((copy * rows + row) * row_pages + page)] = shuffled[next++];
      }
    }
  }

  cache_.type = step.type;
  cache_.rows = rows;
  cache_.group = step.group;
  cache_.width = step.width;
  cache_.page_size = step.page_size;
  cache_.scale = 1 / std::sqrt(static_cast<float>(step.width));
  cache_.row_pages = row_pages;
  const std::int64_t outputs = rows * step.group * step.width;
  const std::vector<unsigned char> query = made_up_numbers(ElementType::f32, outputs, 1);
  query_ = upload(query.data(), query.size());
  // Numbers repeat every so many pages: what they are does not change the time, and gigabytes are filled quickly.
  constexpr std::int64_t fill_bytes = 16 << 20;
  const std::int64_t fill_pages = std::clamp<std::int64_t>(fill_bytes / page_bytes, 1, pool_pages_);
  for (CudaResource* const pool : {&keys_, &values_}) {
    *pool = CudaResource::device_memory(runtime_, static_cast<std::size_t>(pool_pages_ * page_bytes));
    const std::vector<unsigned char> numbers =
        made_up_numbers(step.type, fill_pages * step.page_size * step.width, pool == &keys_ ? 2 : 3);
    const CudaResource pinned = CudaResource::pinned_memory(runtime_, numbers.size());
    const StreamDrain drain(runtime_, stream_);
    std::memcpy(pinned.get(), numbers.data(), numbers.size());
    for (std::int64_t first = 0; first < pool_pages_; first += fill_pages) {
      const std::int64_t pages = std::min(fill_pages, pool_pages_ - first);
      require(runtime_.copy_to_device(pool->bytes() + first * page_bytes, pinned.get(),
                                      static_cast<std::size_t>(pages * page_bytes), stream_),
              "filling pages");
    }
    require(runtime_.synchronize_stream(stream_), "filling pages");
  }
  lengths_ = upload(step.lengths.data(), step.lengths.size() * sizeof(std::int32_t));
  pages_ = upload(tables.data(), tables.size() * sizeof(std::int32_t));
  cache_.query = static_cast<const float*>(query_.get());
  cache_.keys = keys_.get();
  cache_.values = values_.get();
  cache_.lengths = static_cast<const std::int32_t*>(lengths_.get());
  cache_.pages = static_cast<const std::int32_t*>(pages_.get());

  parts_.parts = std::max<std::int64_t>(1, (step.longest() + part_entries - 1) / part_entries);
  const auto teams = static_cast<std::size_t>(rows * parts_.parts);
  const auto group = static_cast<std::size_t>(step.group);
  part_output_ =
      CudaResource::device_memory(runtime_, teams * group * static_cast<std::size_t>(step.width) * sizeof(float));
  part_highest_ = CudaResource::device_memory(runtime_, teams * group * sizeof(float));
  part_sum_ = CudaResource::device_memory(runtime_, teams * group * sizeof(float));
  output_ = CudaResource::device_memory(runtime_, static_cast<std::size_t>(outputs) * sizeof(float));
  parts_.output = static_cast<float*>(part_output_.get());
  parts_.highest = static_cast<float*>(part_highest_.get());
  parts_.sum = static_cast<float*>(part_sum_.get());
}

CudaResource PagedCacheMemory::upload(const void* data, std::size_t bytes) {
  CudaResource memory = CudaResource::device_memory(runtime_, bytes);
  const CudaResource pinned = CudaResource::pinned_memory(runtime_, bytes);
  const StreamDrain drain(runtime_, stream_);
  std::memcpy(pinned.get(), data, bytes);
  require(runtime_.copy_to_device(memory.get(), pinned.get(), bytes, stream_), "uploading");
  require(runtime_.synchronize_stream(stream_), "uploading");
  return memory;
}

void PagedCacheMemory::launch(std::int64_t number) {
  DecodeAttention step;
  step.cache = cache_;
  step.cache.pages += number % copies_ * cache_.rows * cache_.row_pages;
  step.result = parts_;
  step.rows = cache_.rows * parts_.parts;
  require(runtime_.launch(step, stream_), "launching attention");
  AttentionMerge merge;
  merge.cache = step.cache;
  merge.parts = parts_;
  merge.rows = cache_.rows;
  merge.output = static_cast<float*>(output_.get());
  require(runtime_.launch(merge, stream_), "launching attention");
}

std::unique_ptr<ProbeDevice> make_cuda_probe_device(std::shared_ptr<CudaRuntime> runtime,
                                                    std::unique_ptr<ProbeCalls> calls, int device) {
  return std::make_unique<CudaProbeDevice>(std::move(runtime), std::move(calls), device);
}

}  // namespace evictsim::traces::capture

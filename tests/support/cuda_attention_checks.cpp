#include "tests/support/cuda_attention_checks.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "models/attention.h"
#include "traces/capture/cuda/resource.h"
#include "traces/capture/probe/cuda_probe_device.h"

namespace evictsim::tests {

using namespace traces::capture;

namespace {

class Bench {
 public:
  explicit Bench(CudaRuntime& runtime) : runtime_(runtime), stream_(CudaResource::stream(runtime)) {}

  template <typename T>
  std::vector<T> download(const void* memory, std::int64_t count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    const CudaResource pinned = CudaResource::pinned_memory(runtime_, bytes);
    require(runtime_.copy_to_host(pinned.get(), memory, bytes, stream_.get()), "downloading");
    require(runtime_.synchronize_stream(stream_.get()), "downloading");
    std::vector<T> values(static_cast<std::size_t>(count));
    std::memcpy(values.data(), pinned.get(), bytes);
    return values;
  }
  [[nodiscard]] CudaStream stream() const { return stream_.get(); }

 private:
  CudaRuntime& runtime_;
  CudaResource stream_;
};

/// Largest difference between the kernel's output of copy `number` and the reference, over the largest value.
double largest_error(Bench& bench, PagedCacheMemory& memory, const AttentionCase& step, std::int64_t number) {
  memory.launch(number);
  PagedCache cache = memory.cache();
  cache.pages += number * cache.rows * cache.row_pages;
  const std::int64_t numbers = memory.pool_pages() * step.page_size * step.width;
  const auto type_bytes = static_cast<std::int64_t>(element_bytes(step.type));
  const auto keys = bench.download<unsigned char>(cache.keys, numbers * type_bytes);
  const auto values = bench.download<unsigned char>(cache.values, numbers * type_bytes);
  const auto tables =
      bench.download<std::int32_t>(cache.pages, std::max<std::int64_t>(1, cache.rows * cache.row_pages));
  const auto query = bench.download<float>(cache.query, cache.rows * step.group * step.width);
  const auto output = bench.download<float>(memory.output(), cache.rows * step.group * step.width);
  double worst = 0;
  for (std::int64_t row = 0; row < cache.rows; ++row) {
    const std::int32_t length = step.lengths[static_cast<std::size_t>(row)];
    models::Matrix row_keys(length, step.width), row_values(length, step.width);
    for (std::int32_t entry = 0; entry < length; ++entry) {
      const std::int64_t page = tables[static_cast<std::size_t>(row * cache.row_pages + entry / step.page_size)];
      const std::int64_t place = (page * step.page_size + entry % step.page_size) * step.width;
      for (int c = 0; c < step.width; ++c) {
        row_keys(entry, c) = load_element(keys.data(), step.type, place + c);
        row_values(entry, c) = load_element(values.data(), step.type, place + c);
      }
    }
    std::vector<std::int32_t> entries(static_cast<std::size_t>(length));
    std::iota(entries.begin(), entries.end(), 0);
    for (int g = 0; g < step.group; ++g) {
      const std::size_t first = static_cast<std::size_t>((row * step.group + g) * step.width);
      std::vector<double> expected(static_cast<std::size_t>(step.width), 0.0);
      if (length > 0) {
        const auto weights = models::reference_weights(
            std::span(query).subspan(first, static_cast<std::size_t>(step.width)),
            models::view(row_keys.data(), length, step.width, step.width), entries, {1 / std::sqrt(step.width), 0});
        expected =
            models::reference_output(weights, models::view(row_values.data(), length, step.width, step.width), entries);
      }
      for (std::size_t c = 0; c < expected.size(); ++c) {
        const double difference = std::abs(static_cast<double>(output[first + c]) - expected[c]);
        worst = std::isnan(difference) ? difference : std::max(worst, difference);
        if (std::isnan(worst)) return worst;
      }
    }
  }
  return worst;
}

constexpr ElementType all_types[] = {ElementType::f32, ElementType::f16, ElementType::bf16, ElementType::fp8_e4m3,
                                     ElementType::fp8_e5m2};

/// Values are below 1, so that an error is one relative to the largest possible value; sums of float32 over a few
/// hundred entries stay well below this.
constexpr double tolerance = 2e-6;

void check(CudaRuntime& runtime, const AttentionCase& step, std::int64_t l2_bytes = 0) {
  CAPTURE(static_cast<int>(step.type), step.group, step.width, step.page_size, step.lengths);
  Bench bench(runtime);
  PagedCacheMemory memory(runtime, bench.stream(), step, l2_bytes);
  for (std::int64_t copy = 0; copy < memory.copies(); ++copy) {
    CHECK(largest_error(bench, memory, step, copy) < tolerance);
  }
}

}  // namespace

void check_decode_attention(CudaRuntime& runtime) {
  const std::vector<std::int32_t> ragged = {1, 255, 256, 257, 700, 0, 16, 33};
  for (const ElementType type : all_types) check(runtime, {type, 4, 128, 16, ragged});
  for (const int page_size : {16, 32, 64, 128, 256, 1, 7}) check(runtime, {ElementType::f16, 2, 64, page_size, ragged});
  for (int group = 1; group <= most_group; ++group) check(runtime, {ElementType::bf16, group, 32, 32, {300, 5, 64}});
  for (const int width : {16, 64, 80, 96, 112, 256}) {
    check(runtime, {ElementType::f16, 3, width, 64, {300, 5, 64}});
    check(runtime, {ElementType::fp8_e4m3, 8, width, 64, {300, 5, 64}});
    check(runtime, {ElementType::f32, 1, width, 64, {300, 5, 64}});
  }
  check(runtime, {ElementType::f16, 1, 8, 16, {0}});
  // Three copies of the cache: pages of each are others.
  const AttentionCase copied{ElementType::f16, 4, 32, 16, {40, 9}};
  const std::int64_t bytes = copied.pages() * 16 * 32 * 2 * 2;
  REQUIRE(cache_copies(bytes, bytes * 3 / 4) == 3);
  check(runtime, copied, bytes * 3 / 4);
}

void check_memory_read(CudaRuntime& runtime) {
  Bench bench(runtime);
  for (const std::int64_t packs : {1, 255, 256, 257, 1000, 5000}) {
    for (const std::int64_t teams : {1, 3}) {
      CAPTURE(packs, teams);
      const std::size_t bytes = static_cast<std::size_t>(packs) * sizeof(Pack);
      const CudaResource pinned = CudaResource::pinned_memory(runtime, bytes);
      const CudaResource memory = CudaResource::device_memory(runtime, bytes);
      const CudaResource sums = CudaResource::device_memory(runtime, static_cast<std::size_t>(teams) * 4);
      auto* const words = static_cast<std::uint32_t*>(pinned.get());
      std::uint32_t expected = 0;
      for (std::int64_t i = 0; i < packs * 4; ++i)
        expected += words[i] = static_cast<std::uint32_t>(i) * 2654435761U + 1;
      require(runtime.copy_to_device(memory.get(), pinned.get(), bytes, bench.stream()), "uploading");
      MemoryRead job{static_cast<const Pack*>(memory.get()), packs, teams, static_cast<std::uint32_t*>(sums.get())};
      require(runtime.launch(job, bench.stream()), "launching");
      const auto found = bench.download<std::uint32_t>(sums.get(), teams);
      CHECK(std::accumulate(found.begin(), found.end(), 0U) == expected);
    }
  }
}

}  // namespace evictsim::tests

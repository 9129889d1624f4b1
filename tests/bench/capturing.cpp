// How near is the capture sink (from open to sealed shard) to the slower of writing the same bytes plainly with fsync
// and zlib alone, each on as many threads, and does it scale with them?
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

#include <atomic>
#include <filesystem>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/bench/limits.h"
#include "traces/capture/evictsim_capture.h"
#include "traces/half.h"

namespace {

using namespace evictsim;

constexpr std::int64_t tokens = 1024, layers = 2, query_heads = 32, kv_heads = 8, width = 128;
constexpr std::size_t chunk_bytes = std::size_t{512} << 10;

void check(std::int32_t status) {
  if (status != EVICTSIM_CAPTURE_OK) throw std::runtime_error(evictsim_capture_last_error());
}

/// Normal numbers in float16, as q, k and v roughly are.
std::vector<std::uint16_t> normal_halves(std::size_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<std::uint16_t> values(count);
  for (std::uint16_t& value : values) value = traces::float_to_half(normal(random));
  return values;
}

/// Bytes per second of shuffling and deflating `bytes` at level 1, chunk by chunk, on so many threads.
double deflate_bytes_per_second(const std::vector<std::uint16_t>& values, std::size_t bytes, int threads) {
  const auto work = [&](std::size_t chunks) {
    std::vector<unsigned char> planes(chunk_bytes), out(compressBound(chunk_bytes));
    for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
      const std::uint16_t* source = values.data() + chunk * chunk_bytes / 2 % (values.size() - chunk_bytes / 2);
      for (std::size_t i = 0; i < chunk_bytes / 2; ++i) {
        planes[i] = static_cast<unsigned char>(source[i] & 255);
        planes[chunk_bytes / 2 + i] = static_cast<unsigned char>(source[i] >> 8);
      }
      uLongf size = out.size();
      compress2(out.data(), &size, planes.data(), planes.size(), 1);
    }
  };
  return static_cast<double>(bytes) / bench::fastest(1, [&] {
           std::vector<std::thread> workers;
           for (int i = 0; i < threads; ++i) {
             workers.emplace_back(work, bytes / chunk_bytes / static_cast<std::size_t>(threads));
           }
           for (std::thread& worker : workers) worker.join();
         });
}

/// Bytes per second of pwrite(2) in pieces of a chunk on so many threads, with fsync at the end.
double plain_write_bytes_per_second(const std::vector<std::uint16_t>& values, std::size_t bytes, int threads) {
  std::filesystem::remove("bench-plain.bin");
  return static_cast<double>(bytes) / bench::fastest(1, [&] {
           const int file = ::open("bench-plain.bin", O_WRONLY | O_CREAT | O_TRUNC, 0644);
           std::atomic<bool> failed{file < 0};
           std::vector<std::thread> workers;
           for (int i = 0; i < threads; ++i) {
             workers.emplace_back([&, i] {
               const auto step = chunk_bytes * static_cast<std::size_t>(threads);
               for (std::size_t place = static_cast<std::size_t>(i) * chunk_bytes; place < bytes; place += step) {
                 const std::size_t count = std::min(chunk_bytes, bytes - place);
                 const auto* source = values.data() + place / 2 % (values.size() - chunk_bytes / 2);
                 if (::pwrite(file, source, count, static_cast<off_t>(place)) != static_cast<ssize_t>(count))
                   failed = true;
               }
             });
           }
           for (std::thread& worker : workers) worker.join();
           if (::fsync(file) != 0 || failed) throw std::runtime_error("cannot write bench-plain.bin");
           ::close(file);
         });
}

void record(const std::string& options, const std::vector<std::uint16_t>& values, std::int64_t requests) {
  std::filesystem::remove_all("bench-capture");
  evictsim_capture* capture = nullptr;
  check(evictsim_capture_open("bench-capture", options.c_str(),
                              EVICTSIM_CAPTURE_ABI_MAJOR << 16 | EVICTSIM_CAPTURE_ABI_MINOR, &capture));
  check(evictsim_capture_model(
      capture,
      "model=bench\nengine=bench\nnum_layers=2\nnum_query_heads=32\nnum_kv_heads=8\nhead_dim=128\n"
      "hidden_size=4096\nvocab_size=1000\nrope_layout=half\nrope_theta=10000"));
  constexpr std::int64_t rows = 512;
  const std::vector<std::int32_t> ids(rows, 1);
  for (std::int64_t i = 0; i < requests * tokens / rows; ++i) {
    const std::string name = std::to_string(i * rows / tokens);
    const evictsim_capture_rows range{name.c_str(), 0,         rows, static_cast<std::int32_t>(i * rows % tokens),
                                      tokens,       ids.data()};
    check(evictsim_capture_begin_step(capture, &range, 1));
    for (int layer = 0; layer < layers; ++layer) {
      for (const int role : {EVICTSIM_CAPTURE_Q, EVICTSIM_CAPTURE_K, EVICTSIM_CAPTURE_V}) {
        std::int64_t shape[3] = {rows, role == EVICTSIM_CAPTURE_Q ? query_heads : kv_heads, width};
        DLTensor tensor{};
        tensor.data = const_cast<std::uint16_t*>(values.data());
        tensor.device.device_type = kDLCPU;
        tensor.ndim = 3;
        tensor.dtype = {kDLFloat, 16, 1};
        tensor.shape = shape;
        check(evictsim_capture_push(capture, &tensor, role, layer, nullptr));
      }
    }
    check(evictsim_capture_end_step(capture));
    if ((i + 1) * rows % tokens == 0) check(evictsim_capture_finish_request(capture, name.c_str()));
  }
  check(evictsim_capture_close(capture));
}

std::uintmax_t recorded_bytes() {
  std::uintmax_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator("bench-capture")) bytes += entry.file_size();
  return bytes;
}

void capture(benchmark::State& state) {
  const auto threads = static_cast<int>(state.range(0));
  const bool compress = state.range(1) != 0;
  const std::vector<std::uint16_t> values = normal_halves(512 * query_heads * width);
  // Shards as large as time allows: sealing one syncs two files and a directory, whatever its size.
  const std::int64_t requests = compress ? 2 : 16;
  const auto raw = static_cast<std::size_t>(tokens * requests * layers * (query_heads + 2 * kv_heads) * width * 2);
  const std::string options =
      "queue=64MiB\nthreads=" + std::to_string(threads) + "\ncompress=" + std::to_string(compress ? 1 : 0);
  // In turn, and the best of each: what else the machine does then slows down all of them alike.
  double best = 0, plain = 0, deflate = 0;
  for (auto _ : state) {
    best = std::max(best, static_cast<double>(raw) / bench::fastest(1, [&] { record(options, values, requests); }));
    state.PauseTiming();
    const std::uintmax_t stored = recorded_bytes();
    plain = std::max(plain, plain_write_bytes_per_second(values, stored, threads) * static_cast<double>(raw) /
                                static_cast<double>(stored));
    if (compress) deflate = std::max(deflate, deflate_bytes_per_second(values, raw, threads));
    state.ResumeTiming();
  }
  state.counters["MB/s"] = best * 1e-6;
  state.counters["plain_MB/s"] = plain * 1e-6;
  if (compress) state.counters["deflate_MB/s"] = deflate * 1e-6;
  state.counters["ratio"] = best / (compress ? std::min(plain, deflate) : plain);
  std::filesystem::remove_all("bench-capture");
  std::filesystem::remove("bench-plain.bin");
}

}  // namespace

BENCHMARK(capture)
    ->ArgNames({"threads", "deflate"})
    ->Args({1, 1})
    ->Args({2, 1})
    ->Args({1, 0})
    ->Args({2, 0})
    ->Unit(benchmark::kMillisecond)
    ->Iterations(5)
    ->UseRealTime();

// How near is reading a layer (file to float32 heads) to a plain read of the same bytes?
#include <benchmark/benchmark.h>

#include "tests/bench/limits.h"
#include "tests/bench/random_trace.h"
#include "traces/reader.h"

namespace {

using namespace evictsim;

void read_layer(benchmark::State& state) {
  bench::TraceShape shape = bench::shape_8b(static_cast<int>(state.range(0)), 2);
  shape.with_w_o = false;
  shape.compress = state.range(1) != 0;
  shape.type = state.range(2) != 0 ? traces::TensorType::float16 : traces::TensorType::float32;
  const std::filesystem::path path = bench::write_random_trace(shape);
  const double limit = bench::plain_read_bytes_per_second(path);
  double best = 1e9;
  for (auto _ : state) {
    best = std::min(best, bench::fastest(1, [&] {
      const traces::Reader reader(path);
      for (const int layer : reader.header().layers) benchmark::DoNotOptimize(reader.read_layer(0, layer));
    }));
  }
  const double rate = static_cast<double>(std::filesystem::file_size(path)) / best;
  state.counters["MB/s"] = rate * 1e-6;
  state.counters["plain_MB/s"] = limit * 1e-6;
  state.counters["ratio"] = rate / limit;
  std::filesystem::remove(path);
}

}  // namespace

BENCHMARK(read_layer)
    ->ArgNames({"tokens", "deflate", "half"})
    ->Args({4096, 0, 1})
    ->Args({16384, 0, 1})
    ->Args({16384, 0, 0})
    ->Args({4096, 1, 1})
    ->Unit(benchmark::kMillisecond);

// How near is reading layers (file to float32 heads in memory) to a plain read of the same bytes into memory?
#include <benchmark/benchmark.h>

#include "tests/bench/limits.h"
#include "tests/bench/random_trace.h"
#include "traces/reader.h"

namespace {

using namespace evictsim;

void measure(benchmark::State& state, bench::TraceShape shape) {
  shape.with_w_o = false;
  const std::filesystem::path path = bench::write_random_trace(shape);
  const double limit = bench::plain_read_bytes_per_second(path);
  const double scratch = bench::scratch_read_bytes_per_second(path);
  const double open = bench::fastest(3, [&] { benchmark::DoNotOptimize(traces::Reader(path)); });
  const traces::Reader reader(path);
  traces::LayerTensors tensors;
  const auto read_into = [&](traces::LayerTensors& target) {
    for (const int layer : reader.header().layers) reader.read_layer(0, layer, target);
  };
  read_into(tensors);  // As in a replay, every layer but the first meets memory that was used before.
  double best = 1e9;
  for (auto _ : state) best = std::min(best, bench::fastest(1, [&] { read_into(tensors); }));
  const double fresh = bench::fastest(3, [&] {
    for (const int layer : reader.header().layers) benchmark::DoNotOptimize(reader.read_layer(0, layer));
  });
  const auto bytes = static_cast<double>(std::filesystem::file_size(path));
  state.counters["MB/s"] = bytes / best * 1e-6;
  state.counters["fresh_MB/s"] = bytes / fresh * 1e-6;
  state.counters["plain_MB/s"] = limit * 1e-6;
  state.counters["scratch_MB/s"] = scratch * 1e-6;
  if (shape.compress) state.counters["inflate_MB/s"] = bench::inflate_bytes_per_second() * 1e-6;
  state.counters["open_ms"] = open * 1e3;
  state.counters["ratio"] = bytes / best / limit;
  std::filesystem::remove(path);
}

void read_layer(benchmark::State& state) {
  constexpr int kTokensOfAllLayers = 32'768;  // 150 MB or more: the plain read shall not come from the last cache
  const auto tokens = static_cast<int>(state.range(0));
  bench::TraceShape shape = bench::shape_8b(tokens, kTokensOfAllLayers / tokens);
  shape.compress = state.range(1) != 0;
  shape.type = state.range(2) != 0 ? traces::TensorType::float16 : traces::TensorType::float32;
  measure(state, shape);
}

void read_layer_smollm2(benchmark::State& state) { measure(state, bench::smollm2_shape()); }

}  // namespace

BENCHMARK(read_layer)
    ->ArgNames({"tokens", "deflate", "half"})
    ->Args({4096, 0, 1})
    ->Args({16384, 0, 1})
    ->Args({16384, 0, 0})
    ->Args({4096, 1, 1})
    ->Unit(benchmark::kMillisecond);
BENCHMARK(read_layer_smollm2)->Unit(benchmark::kMillisecond);

// How near are the attention kernels to one thread's matrix product of the same inner sizes?
#include <benchmark/benchmark.h>

#include "models/attention.h"
#include "models/projection.h"
#include "sim/replay/evaluation.h"
#include "tests/bench/limits.h"

namespace {

using namespace evictsim;
using models::Index;
using models::Matrix;

/// Rate in GFLOP/s of ours and of sgemm, and their ratio, from `flops` per iteration of a finished loop.
void report(benchmark::State& state, double flops, double seconds, double limit) {
  const double rate = flops / seconds;
  state.counters["GFLOP/s"] = rate * 1e-9;
  state.counters["sgemm_GFLOP/s"] = limit * 1e-9;
  state.counters["ratio"] = rate / limit;
}

/// Logits alone: keys [T, d] times the group's queries [C, d].
void logits(benchmark::State& state) {
  const Index entries = state.range(0);
  const Index columns = state.range(1);
  const Index dim = state.range(2);
  const Matrix keys = Matrix::Random(entries, dim);
  const Matrix queries = Matrix::Random(columns, dim);
  Matrix out(entries, columns);
  double best = 1e9;
  for (auto _ : state) {
    best = std::min(best, bench::fastest(1, [&] {
                      models::logits(models::view(keys.data(), entries, dim), queries, {0.125, 0}, out);
                    }));
    benchmark::DoNotOptimize(out.data());
  }
  report(state, 2.0 * static_cast<double>(entries * columns * dim), best, bench::sgemm_flops(entries, columns, dim));
}

/// Logits, softmax, entropy terms: everything that policies share.
void attention(benchmark::State& state) {
  const Index entries = state.range(0);
  const Index columns = state.range(1);
  const Index dim = state.range(2);
  const Matrix keys = Matrix::Random(entries, dim);
  const Matrix queries = Matrix::Random(columns, dim);
  const std::vector<models::EntryRange> visible(static_cast<std::size_t>(columns), {0, entries});
  models::AttentionColumns out;
  double best = 1e9;
  for (auto _ : state) {
    best = std::min(best, bench::fastest(1, [&] {
                      models::attend(models::view(keys.data(), entries, dim), queries, visible, {0.125, 0}, true, out);
                    }));
  }
  report(state, 2.0 * static_cast<double>(entries * columns * dim), best, bench::sgemm_flops(entries, columns, dim));
}

/// The whole error-budget curve of one cache head: gather, products at eight cuts, metrics.
void output_curve(benchmark::State& state) {
  const auto entries = static_cast<std::int32_t>(state.range(0));
  const int group = static_cast<int>(state.range(1));
  const int dim = static_cast<int>(state.range(2));
  constexpr std::int32_t rows = 64;
  constexpr std::size_t budgets = 8;
  models::Geometry geometry{.num_layers = 1,
                            .layers = {0},
                            .num_query_heads = group,
                            .num_kv_heads = 1,
                            .head_dim = dim,
                            .hidden_size = group * dim,
                            .attention_scale = 0.125};
  const models::Rope rope(traces::RopeLayout::none, {});
  traces::SequenceInfo info{.name = "0", .prompt_length = entries - rows, .length = entries};
  traces::LayerTensors tensors{.length = entries};
  const auto random = [](std::size_t count) {
    const Eigen::VectorXf values = Eigen::VectorXf::Random(static_cast<Index>(count));
    return std::vector<float>(values.begin(), values.end());
  };
  tensors.k = random(static_cast<std::size_t>(entries * dim));
  tensors.v = random(static_cast<std::size_t>(entries * dim));
  tensors.q = random(static_cast<std::size_t>(rows * group * dim));
  for (std::int32_t row = 0; row < entries; ++row) {
    info.positions.push_back(row);
    if (row >= info.prompt_length) tensors.q_rows.push_back(row);
  }
  const sim::LayerData layer(geometry, rope, info, 0, std::move(tensors));
  sim::Tile tile = sim::make_tile(layer, layer.decode_rows(), false, nullptr);
  tile.useful = sim::UsefulSets(group, rows);
  sim::KeptChain chain{.points = std::vector<std::size_t>(budgets), .level = {{}}};
  for (std::int32_t row = 0; row < info.prompt_length; ++row) {
    chain.level[0].push_back(static_cast<std::uint16_t>((row * 7919) % static_cast<std::int32_t>(budgets + 1)));
  }
  sim::BlockMetrics metrics(static_cast<Index>(budgets), rows, geometry);
  double best = 1e9;
  for (auto _ : state) {
    best = std::min(best, bench::fastest(1, [&] {
                      sim::evaluate_chain(layer, tile, chain, 0, {0, 0, group}, metrics);
                    }));
  }
  report(state, 2.0 * entries * rows * group * dim, best, bench::sgemm_flops(Index{rows} * group, dim, entries));
}

/// |W_O x| of eight budgets' differences.
void projection(benchmark::State& state) {
  const Index width = state.range(0);
  const Index hidden = state.range(1);
  const Index rows = state.range(2);
  models::OutputProjection projection(Matrix::Random(hidden, width), std::nullopt);
  projection.expect_rows(state.range(3) * rows);
  const Matrix full = Matrix::Random(rows, width);
  const Matrix difference = Matrix::Random(8 * rows, width);
  std::vector<double> out(static_cast<std::size_t>(8 * rows));
  double best = 1e9;
  for (auto _ : state)
    best = std::min(best, bench::fastest(1, [&] { projection.error_squared(full, difference, out); }));
  // Counted as the plain product, so that the triangular factor may pass 1.
  report(state, 2.0 * static_cast<double>(8 * rows * width * hidden), best,
         bench::sgemm_flops(8 * rows, hidden, width));
  state.counters["factor"] = projection.uses_factor() ? 1 : 0;
}

}  // namespace

BENCHMARK(logits)
    ->ArgNames({"entries", "queries", "d"})
    ->Args({576, 192, 64})
    ->Args({4096, 256, 128})
    ->Args({16384, 256, 128});
BENCHMARK(attention)
    ->ArgNames({"entries", "queries", "d"})
    ->Args({576, 192, 64})
    ->Args({4096, 256, 128})
    ->Args({16384, 256, 128});
BENCHMARK(output_curve)
    ->ArgNames({"entries", "group", "d"})
    ->Args({576, 3, 64})
    ->Args({4096, 4, 128})
    ->Args({16384, 4, 128});
BENCHMARK(projection)
    ->ArgNames({"width", "D", "rows", "points"})
    ->Args({576, 576, 64, 1})
    ->Args({576, 576, 64, 120})
    ->Args({4096, 4096, 64, 8})
    ->Iterations(5);

#include "tests/bench/random_trace.h"

#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <unistd.h>

#include "traces/writer.h"

namespace evictsim::bench {
namespace {

std::vector<float> random_values(std::size_t count, float scale, std::mt19937& generator) {
  std::normal_distribution<float> normal(0.0F, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

}  // namespace

TraceShape smollm2_shape() {
  return {.layers = 30, .query_heads = 9, .kv_heads = 3, .head_dim = 64, .hidden_size = 576, .window = 512};
}

TraceShape shape_8b(int tokens, int layers) {
  return {
      .layers = layers, .query_heads = 32, .kv_heads = 8, .head_dim = 128, .hidden_size = 4096, .prompt = tokens - 64};
}

std::filesystem::path write_random_trace(const TraceShape& shape) {
  static int count = 0;
  std::filesystem::path path = std::filesystem::temp_directory_path() /
                               ("evictsim-bench-" + std::to_string(getpid()) + "-" + std::to_string(count++) + ".h5");
  traces::Header header{.model = "random", .engine = "bench", .engine_version = "1", .created = "2026-01-01T00:00:00Z"};
  header.num_layers = shape.layers;
  header.num_query_heads = shape.query_heads;
  header.num_kv_heads = shape.kv_heads;
  header.head_dim = shape.head_dim;
  header.hidden_size = shape.hidden_size;
  header.vocab_size = 1000;
  header.attention_scale = 1.0 / std::sqrt(static_cast<double>(shape.head_dim));
  header.rope_theta = 10000;
  for (int i = 0; i < shape.head_dim / 2; ++i) {
    header.inv_freq.push_back(std::pow(10000.0, -2.0 * i / shape.head_dim));
  }
  header.layers.resize(static_cast<std::size_t>(shape.layers));
  std::iota(header.layers.begin(), header.layers.end(), 0);

  std::mt19937 generator(1);
  traces::Writer writer(path, header, {.tensor_type = shape.type, .compress = shape.compress});
  const auto length = static_cast<std::size_t>(shape.prompt + shape.decode);
  const auto width = static_cast<std::size_t>(shape.query_heads * shape.head_dim);
  if (shape.with_w_o) {
    const auto w_o = random_values(static_cast<std::size_t>(shape.hidden_size) * width, 0.05F, generator);
    for (const int layer : header.layers) writer.write_weight(layer, traces::LayerWeight::w_o, w_o);
  }
  traces::SequenceInfo info{.name = "", .prompt_length = shape.prompt, .length = static_cast<std::int32_t>(length)};
  info.positions.resize(length);
  std::iota(info.positions.begin(), info.positions.end(), 0);
  writer.begin_sequence(info);
  writer.write_channel(traces::Channel::token_ids, std::vector<float>(length, 1.0F));
  std::vector<std::int32_t> rows(static_cast<std::size_t>(shape.window + shape.decode));
  std::iota(rows.begin(), rows.end(), shape.prompt - shape.window);
  const auto kv_count = length * static_cast<std::size_t>(shape.kv_heads * shape.head_dim);
  const auto k = random_values(kv_count, 1.0F, generator);
  const auto v = random_values(kv_count, 1.0F, generator);
  const auto q = random_values(rows.size() * width, 1.5F, generator);
  for (const int layer : header.layers) {
    writer.append_kv(layer, k, v);
    writer.append_q(layer, rows, q);
  }
  writer.end_sequence();
  writer.seal();
  return path;
}

}  // namespace evictsim::bench

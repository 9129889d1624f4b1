#include "tests/support/memory_trace.h"

#include <unistd.h>

#include <atomic>
#include <cmath>
#include <numeric>
#include <random>

namespace evictsim::test {
namespace {

/// Normal numbers that do not depend on the standard library's distributions.
class Normal {
 public:
  explicit Normal(std::uint64_t seed) : generator_(seed) {}
  float operator()(double spread) {
    double sum = 0;
    for (int i = 0; i < 12; ++i) sum += static_cast<double>(generator_() >> 11U) * 0x1p-53;
    return static_cast<float>(spread * (sum - 6.0));
  }
  std::vector<float> many(std::size_t count, double spread) {
    std::vector<float> values(count);
    for (float& value : values) value = (*this)(spread);
    return values;
  }

 private:
  std::mt19937_64 generator_;
};

std::size_t size_of(int a, int b, int c) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * static_cast<std::size_t>(c);
}

/// [heads, rows, d] -> [rows, heads, d]
std::vector<float> token_major(const std::vector<float>& values, int heads, std::size_t rows, int dim) {
  std::vector<float> result(values.size());
  const auto width = static_cast<std::size_t>(dim);
  const auto count = static_cast<std::size_t>(heads);
  for (std::size_t h = 0; h < count; ++h) {
    for (std::size_t r = 0; r < rows; ++r) {
      std::copy_n(values.begin() + static_cast<std::ptrdiff_t>((h * rows + r) * width), width,
                  result.begin() + static_cast<std::ptrdiff_t>((r * count + h) * width));
    }
  }
  return result;
}

float& element(std::vector<float>& values, int head, std::int32_t rows, std::int32_t row, int dim, int component) {
  return values[(static_cast<std::size_t>(head) * static_cast<std::size_t>(rows) + static_cast<std::size_t>(row)) *
                    static_cast<std::size_t>(dim) +
                static_cast<std::size_t>(component)];
}

void write_packets(traces::Writer& writer, const traces::Header& header, const MemoryTrace::Sequence& sequence,
                   traces::PacketSet set) {
  const MemoryTrace::PacketData& packets = sequence.packets[static_cast<std::size_t>(set)];
  if (packets.layout.empty()) return;
  writer.write_packets(set, packets.layout);
  const auto rows = static_cast<std::size_t>(traces::total_rows(packets.layout));
  const auto after = static_cast<std::size_t>(sequence.info.length - packets.layout.back().document.last);
  for (std::size_t slot = 0; slot < packets.layers.size(); ++slot) {
    const traces::PacketTensors& layer = packets.layers[slot];
    const auto kv = [&](const std::vector<float>& values, std::size_t count) {
      return token_major(values, header.num_kv_heads, count, header.head_dim);
    };
    const auto queries = [&](const std::vector<float>& values, std::size_t count) {
      return token_major(values, header.num_query_heads, count, header.head_dim);
    };
    const std::vector<float> k = kv(layer.k, rows), v = kv(layer.v, rows);
    const std::vector<float> q = layer.q.empty() ? layer.q : queries(layer.q, rows);
    writer.append_packet_rows(set, header.layers[slot], {.k = k, .v = v, .q = q});
    if (layer.after_k.empty()) continue;
    const std::vector<float> after_k = kv(layer.after_k, after), after_v = kv(layer.after_v, after);
    const std::vector<float> after_q = queries(layer.after_q, after);
    writer.append_rows_after_packets(set, header.layers[slot], {.k = after_k, .v = after_v, .q = after_q});
  }
}

void write_sequence(traces::Writer& writer, const MemoryTrace& trace, const MemoryTrace::Sequence& sequence) {
  const traces::Header& header = trace.header;
  writer.begin_sequence(sequence.info);
  for (std::size_t slot = 0; slot < header.layers.size(); ++slot) {
    const traces::LayerTensors& layer = sequence.layers[slot];
    const auto length = static_cast<std::size_t>(layer.length);
    writer.append_kv(header.layers[slot], token_major(layer.k, header.num_kv_heads, length, header.head_dim),
                     token_major(layer.v, header.num_kv_heads, length, header.head_dim));
    writer.append_q(header.layers[slot], layer.q_rows,
                    token_major(layer.q, header.num_query_heads, layer.q_rows.size(), header.head_dim));
  }
  std::vector<float> tokens(static_cast<std::size_t>(sequence.info.length));
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    tokens[t] = static_cast<float>(t % static_cast<std::size_t>(header.vocab_size));
  }
  writer.write_channel(traces::Channel::token_ids, tokens);
  for (std::size_t slot = 0; slot < sequence.x.size(); ++slot) writer.append_x(header.layers[slot], sequence.x[slot]);
  for (const auto& [channel, values] : sequence.channels) writer.write_channel(channel, values);
  if (!sequence.second_pass_q.empty()) writer.write_second_pass(sequence.second_pass);
  for (std::size_t slot = 0; slot < sequence.second_pass_q.size(); ++slot) {
    writer.append_second_pass_q(header.layers[slot], sequence.second_pass_q[slot]);
  }
  for (const traces::PacketSet set : traces::packet_sets) write_packets(writer, header, sequence, set);
  writer.end_sequence();
}

/// What policies may ask for besides k, v and q. The second pass reads the prompt once more.
void add_side(const TraceShape& shape, Normal& normal, MemoryTrace& trace) {
  const auto size = [](int a, int b, int c) { return size_of(a, b, c); };
  for (int layer = 0; layer < shape.layers; ++layer) {
    std::vector<float> weight = normal.many(static_cast<std::size_t>(shape.hidden_size), 0.2);
    for (float& value : weight) value += 1;
    trace.input_norm.push_back(std::move(weight));
  }
  for (MemoryTrace::Sequence& sequence : trace.sequences) {
    const auto share = [&](std::vector<float> values) {  // between 0 and 1
      for (float& value : values) value = 1 / (1 + std::exp(-value));
      return values;
    };
    for (int layer = 0; layer < shape.layers; ++layer) {
      sequence.x.push_back(normal.many(size(shape.length, shape.hidden_size, 1), 1));
    }
    for (const traces::Channel channel : {traces::Channel::step_norm, traces::Channel::cos_final,
                                          traces::Channel::cos_attention, traces::Channel::residual_norm}) {
      sequence.channels[channel] = share(normal.many(size(shape.layers, shape.length, 1), 1));
    }
    sequence.channels[traces::Channel::entropy] = share(normal.many(size(shape.length, 1, 1), 1));
    sequence.channels[traces::Channel::entropy_top] = share(normal.many(size(shape.length, 3, 1), 1));
    sequence.channels[traces::Channel::final_norm_input] = share(normal.many(size(shape.length, 1, 1), 1));
    const std::int32_t rows = std::min(shape.prompt_length, 5);
    for (std::int32_t row = 0; row < rows; ++row) {
      sequence.second_pass.positions.push_back(shape.length * shape.position_step + row);
      sequence.second_pass.chunk.push_back({0, shape.prompt_length});
    }
    for (int layer = 0; layer < shape.layers; ++layer) {
      sequence.second_pass_q.push_back(normal.many(size(rows, shape.query_heads, shape.head_dim), shape.query_spread));
    }
    sequence.info.spans["question"] = {{shape.prompt_length - 1 - shape.prompt_length / 4, shape.prompt_length}};
  }
}

/// Two documents between a preamble and the question where the prompt has room, else one; wrapped and bare.
void add_packets(const TraceShape& shape, Normal& normal, MemoryTrace& trace) {
  const std::int32_t prompt = shape.prompt_length;
  const std::int32_t end = prompt - 1 - prompt / 4;
  std::vector<traces::Span> documents = {{0, prompt}};
  if (prompt >= 8) documents = {{prompt / 8, prompt / 2}, {prompt / 2, end}};
  for (MemoryTrace::Sequence& sequence : trace.sequences) {
    sequence.info.spans["document"] = documents;
    for (const traces::PacketSet set : traces::packet_sets) {
      MemoryTrace::PacketData& packets = sequence.packets[static_cast<std::size_t>(set)];
      const bool wrapped = set == traces::PacketSet::wrapped;
      for (const traces::Span& document : documents) packets.layout.push_back({document, wrapped ? 2 : 0, wrapped});
      const std::int32_t rows = traces::total_rows(packets.layout);
      const std::int32_t after = shape.length - documents.back().last;
      for (int layer = 0; layer < shape.layers; ++layer) {
        traces::PacketTensors tensors;
        tensors.k = normal.many(size_of(shape.kv_heads, rows, shape.head_dim), 1);
        tensors.v = normal.many(size_of(shape.kv_heads, rows, shape.head_dim), 1);
        tensors.q = normal.many(size_of(shape.query_heads, rows, shape.head_dim), shape.query_spread);
        tensors.after_k = normal.many(size_of(shape.kv_heads, after, shape.head_dim), 1);
        tensors.after_v = normal.many(size_of(shape.kv_heads, after, shape.head_dim), 1);
        tensors.after_q = normal.many(size_of(shape.query_heads, after, shape.head_dim), shape.query_spread);
        packets.layers.push_back(std::move(tensors));
      }
    }
  }
}

}  // namespace

float& MemoryTrace::key(int layer, int kv_head, std::int32_t row, int component) {
  traces::LayerTensors& tensors = sequences[0].layers[static_cast<std::size_t>(layer)];
  return element(tensors.k, kv_head, tensors.length, row, header.head_dim, component);
}

float& MemoryTrace::value(int layer, int kv_head, std::int32_t row, int component) {
  traces::LayerTensors& tensors = sequences[0].layers[static_cast<std::size_t>(layer)];
  return element(tensors.v, kv_head, tensors.length, row, header.head_dim, component);
}

float& MemoryTrace::query(int layer, int query_head, std::int32_t row, int component) {
  traces::LayerTensors& tensors = sequences[0].layers[static_cast<std::size_t>(layer)];
  return element(tensors.q, query_head, tensors.length, row, header.head_dim, component);
}

MemoryTrace random_trace(const TraceShape& shape) {
  MemoryTrace trace;
  traces::Header& header = trace.header;
  header.model = "random";
  header.engine = "none";
  header.engine_version = "1";
  header.created = "2026-01-01T00:00:00Z";
  header.num_layers = shape.layers;
  header.num_query_heads = shape.query_heads;
  header.num_kv_heads = shape.kv_heads;
  header.head_dim = shape.head_dim;
  header.hidden_size = shape.hidden_size;
  header.vocab_size = 1000;
  header.attention_scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
  header.logit_softcap = shape.softcap;
  header.rope_theta = 10000;
  header.sliding_window = shape.sliding_window;
  for (int i = 0; i < shape.head_dim / 2; ++i) {
    header.inv_freq.push_back(std::pow(10000.0, -2.0 * i / shape.head_dim));
  }
  header.layers.resize(static_cast<std::size_t>(shape.layers));
  std::iota(header.layers.begin(), header.layers.end(), 0);

  Normal normal(shape.seed);
  for (int s = 0; s < shape.sequences; ++s) {
    MemoryTrace::Sequence sequence;
    sequence.info.prompt_length = shape.prompt_length;
    sequence.info.length = shape.length;
    for (std::int32_t t = 0; t < shape.length; ++t) sequence.info.positions.push_back(t * shape.position_step);
    if (!shape.evidence.empty()) sequence.info.spans["evidence"] = shape.evidence;
    for (int layer = 0; layer < shape.layers; ++layer) {
      traces::LayerTensors tensors;
      tensors.length = shape.length;
      tensors.q_rows = shape.q_rows;
      if (tensors.q_rows.empty()) {
        tensors.q_rows.resize(static_cast<std::size_t>(shape.length));
        std::iota(tensors.q_rows.begin(), tensors.q_rows.end(), 0);
      }
      tensors.k = normal.many(size_of(shape.kv_heads, shape.length, shape.head_dim), 1);
      tensors.v = normal.many(size_of(shape.kv_heads, shape.length, shape.head_dim), 1);
      tensors.q = normal.many(size_of(shape.query_heads, static_cast<int>(tensors.q_rows.size()), shape.head_dim),
                              shape.query_spread);
      sequence.layers.push_back(std::move(tensors));
    }
    trace.sequences.push_back(std::move(sequence));
  }
  for (int layer = 0; layer < shape.layers; ++layer) {
    if (shape.with_w_o) {
      trace.w_o.push_back(normal.many(size_of(shape.hidden_size, shape.query_heads, shape.head_dim), 0.3));
    }
    if (shape.with_output_norm) {
      trace.output_norm.push_back(normal.many(static_cast<std::size_t>(shape.hidden_size), 1));
    }
  }
  if (shape.with_side) {
    add_side(shape, normal, trace);
    add_packets(shape, normal, trace);
  }
  if (shape.with_output_norm) {
    header.norm_kind = traces::NormKind::rms;
    header.norm_epsilon = 1e-5;
  }
  return trace;
}

void write_trace(const MemoryTrace& trace, const std::filesystem::path& path, traces::TensorType type) {
  traces::Writer writer(path, trace.header, {.tensor_type = type, .compress = false});
  for (std::size_t slot = 0; slot < trace.header.layers.size(); ++slot) {
    if (!trace.w_o.empty()) {
      writer.write_weight(trace.header.layers[slot], traces::LayerWeight::w_o, trace.w_o[slot]);
    }
    if (!trace.output_norm.empty()) {
      writer.write_weight(trace.header.layers[slot], traces::LayerWeight::output_norm, trace.output_norm[slot]);
    }
    if (!trace.input_norm.empty()) {
      writer.write_weight(trace.header.layers[slot], traces::LayerWeight::input_norm, trace.input_norm[slot]);
    }
  }
  for (const MemoryTrace::Sequence& sequence : trace.sequences) write_sequence(writer, trace, sequence);
  writer.seal();
}

traces::Reader stored(const MemoryTrace& trace, traces::TensorType type) {
  static std::atomic<int> counter{0};
  const std::filesystem::path path =
      std::filesystem::current_path() / (std::to_string(::getpid()) + "-" + std::to_string(counter++) + ".h5");
  write_trace(trace, path, type);
  traces::Reader reader(path);
  std::filesystem::remove(path);
  return reader;
}

std::vector<traces::Reader> stored_list(const MemoryTrace& trace, traces::TensorType type) {
  std::vector<traces::Reader> readers;
  readers.push_back(stored(trace, type));
  return readers;
}

LoadedLayer::LoadedLayer(const MemoryTrace& trace, std::size_t captured_layer, std::size_t sequence)
    : geometry_(models::Geometry::of(trace.header)),
      rope_(models::Rope::of(trace.header)),
      info_(trace.sequences[sequence].info),
      data_(geometry_, rope_, info_, captured_layer, trace.sequences[sequence].layers[captured_layer]) {}

}  // namespace evictsim::test

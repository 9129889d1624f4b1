// Are a second reading of the context and documents read alone recorded as the engine computes them, and is the rest of
// the trace as it is without them?

#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "models/rope.h"
#include "policies/policy.h"
#include "sim/replay/replay.h"
#include "tests/capture/exact_capture.h"
#include "tests/support/replay_collector.h"
#include "tests/support/weights_file.h"
#include "traces/error.h"
#include "traces/verify.h"

namespace evictsim::tests {
namespace {

constexpr std::size_t width = 16, query_heads = 4, kv_heads = 2, hidden = 48;

/// One entry that a row attends, [d] each.
struct Entry {
  std::vector<double> key, value;
};

std::vector<double> row_of(const std::vector<float>& tensor, std::size_t place) {
  const auto begin = tensor.begin() + static_cast<std::ptrdiff_t>(place * width);
  return {begin, begin + width};
}

/// Attention of all heads over `entries` [kv head], times W_O: [D].
std::vector<double> attention_output(const std::vector<std::vector<double>>& queries,
                                     const std::vector<std::vector<Entry>>& entries, const Tensor& w_o) {
  std::vector<double> heads;
  for (std::size_t head = 0; head < query_heads; ++head) {
    const std::vector<Entry>& seen = entries[head / (query_heads / kv_heads)];
    std::vector<double> weights;
    double sum = 0;
    for (const Entry& entry : seen) {
      weights.push_back(
          std::exp(0.25 * std::inner_product(queries[head].begin(), queries[head].end(), entry.key.begin(), 0.0)));
      sum += weights.back();
    }
    for (std::size_t c = 0; c < width; ++c) {
      double output = 0;
      for (std::size_t i = 0; i < seen.size(); ++i) output += weights[i] / sum * seen[i].value[c];
      heads.push_back(output);
    }
  }
  std::vector<double> result(hidden, 0.0);
  for (std::size_t i = 0; i < hidden; ++i) {
    for (std::size_t j = 0; j < heads.size(); ++j) {
      result[i] += heads[j] * static_cast<double>(w_o.data[i * heads.size() + j]);
    }
  }
  return result;
}

double relative_error(const std::vector<double>& computed, const std::vector<float>& engine, std::size_t row) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < hidden; ++i) {
    const auto expected = static_cast<double>(engine[row * hidden + i]);
    difference += (computed[i] - expected) * (computed[i] - expected);
    norm += expected * expected;
  }
  return std::sqrt(difference / norm);
}

/// An engine of our own beside the capture.
struct Engine {
  explicit Engine(std::int32_t length, int sequences = 1)
      : file(default_model()),
        model(file),
        collector({.num_layers = 3,
                   .layers = {0, 1, 2},
                   .num_query_heads = query_heads,
                   .num_kv_heads = kv_heads,
                   .head_dim = width,
                   .hidden_size = hidden,
                   .attention_output = true}),
        context(model, exact_plan(default_model()).engine, length, &collector, sequences) {}
  StepRows read(const std::vector<std::int32_t>& tokens, std::int32_t first) {
    collector.begin_step(first, static_cast<std::int32_t>(tokens.size()));
    context.decode(tokens, first);
    return collector.finish_step();
  }
  GgufFile file;
  LlamaModel model;
  NodeCollector collector;
  LlamaContext context;
};

test::ReplayCollector replayed(const fs::path& trace, const std::string& policies, const std::string& budget) {
  test::ReplayCollector results;
  const std::atomic<bool> stop = false;
  sim::replay(open_traces({trace}),
              sim::ReplayPlan::of(policies::parse_policies(policies), {policies::Budget::parse(budget)}), {}, results,
              stop);
  CHECK(results.failed_policies.empty());
  CHECK(results.finished_sequences == 1);
  return results;
}

CapturePlan packet_plan() {
  CapturePlan plan = exact_plan(default_model());
  plan.sequence.spans = {parse_span("document=quickbrown"), parse_span("document=foxjumps")};
  plan.record.packets = PacketPlan{};
  return plan;
}

}  // namespace

TEST_CASE("a second pass leaves the rest of the trace as it is") {
  CapturePlan plan = exact_plan(default_model());
  plan.engine.ubatch = GENERATE(512, 5);
  LlamaCapture(plan).run(scratch("one_pass.h5"));
  plan.record.second_pass = SecondPassPlan{.chunk = 16};
  const CaptureReport report = LlamaCapture(plan).run(scratch("two_passes.h5"));
  CHECK(report.check->largest <= 1e-5);
  CHECK(verify(scratch("two_passes.h5")).empty());
  require_same(Reader(scratch("one_pass.h5")), Reader(scratch("two_passes.h5")), 0);
}

TEST_CASE("the second pass is recorded as the engine attends") {
  CapturePlan plan = exact_plan(default_model());
  plan.record.second_pass =
      SecondPassPlan{.chunk = 16, .first_request = "Repeat", .next_request = "tokens:85,86", .tail = 3};
  LlamaCapture(plan).run(scratch("second.h5"));
  const Reader reader(scratch("second.h5"));
  CHECK(reader.header().extra.at("capture_repeat_prompt") == "Repeat");
  CHECK(reader.header().extra.at("capture_second_pass_chunk") == "16");
  const auto prompt = tiny_tokens(prompt_text);
  const auto n = static_cast<std::int32_t>(prompt.size());
  REQUIRE(n == 35);
  const auto part = [&](int first, int last) {
    return std::vector<std::int32_t>(prompt.begin() + first, prompt.begin() + last);
  };
  const auto joined = [](std::vector<std::int32_t> a, const std::vector<std::int32_t>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  };
  const std::vector<std::vector<std::int32_t>> passes = {joined(tiny_tokens("Repeat"), part(0, 16)),
                                                         joined(joined({85, 86}, part(13, 16)), part(16, 32)),
                                                         joined(joined({85, 86}, part(29, 32)), part(32, 35))};
  const std::vector<Span> chunks = {{0, 16}, {16, 32}, {32, 35}};

  const SecondPass rows = reader.read_second_pass(0).value();
  SecondPass expected;
  for (std::size_t i = 0; i < passes.size(); ++i) {
    for (std::size_t row = 0; row < passes[i].size(); ++row) {
      expected.positions.push_back(n + static_cast<std::int32_t>(row));
      expected.chunk.push_back(chunks[i]);
    }
  }
  CHECK(rows.positions == expected.positions);
  CHECK(rows.chunk == expected.chunk);

  const std::size_t total = rows.positions.size();
  Engine engine(80);
  engine.read(prompt, 0);
  std::size_t begun = 0;
  for (const auto& pass : passes) {
    const StepRows step = engine.read(pass, n);
    engine.context.forget(n);
    for (std::size_t layer = 0; layer < 3; ++layer) {
      const LayerTensors tensors = reader.read_layer(0, static_cast<int>(layer));
      const std::vector<float> q = reader.read_second_pass_queries(0, static_cast<int>(layer))->data;
      const std::vector<float> k = reader.read_second_pass_keys(0, static_cast<int>(layer))->data;
      const Tensor w_o = reader.read_weight(static_cast<int>(layer), LayerWeight::w_o).value();
      const auto length = static_cast<std::size_t>(tensors.length);
      double largest = 0;
      for (std::size_t row = 0; row < pass.size(); ++row) {
        std::vector<std::vector<double>> queries;
        for (std::size_t head = 0; head < query_heads; ++head) {
          queries.push_back(row_of(q, head * total + begun + row));
          CHECK(queries.back() == row_of(step.layers[layer].query, row * query_heads + head));
        }
        std::vector<std::vector<Entry>> entries(kv_heads);
        for (std::size_t head = 0; head < kv_heads; ++head) {
          for (std::size_t i = 0; i < prompt.size(); ++i) {
            entries[head].push_back({row_of(tensors.k, head * length + i), row_of(tensors.v, head * length + i)});
          }
          for (std::size_t own = 0; own <= row; ++own) {
            entries[head].push_back(
                {row_of(k, head * total + begun + own), row_of(step.layers[layer].value, own * kv_heads + head)});
          }
        }
        const std::vector<double> computed = attention_output(queries, entries, w_o);
        largest = std::max(largest, relative_error(computed, step.layers[layer].attention_output, row));
      }
      CHECK(largest < 1e-5);
    }
    begun += pass.size();
  }
  CHECK(begun == total);
}

TEST_CASE("policies that look at a second pass replay on a captured one") {
  CapturePlan plan = exact_plan(default_model());
  plan.record.second_pass = SecondPassPlan{.chunk = 16};
  LlamaCapture(plan).run(scratch("kvzip.h5"));
  const test::ReplayCollector zip = replayed(scratch("kvzip.h5"), "kvzip", "0.4");
  std::size_t kept = 0;
  for (const auto& [key, cut] : zip.cuts) {
    for (const auto& rows : cut.kept) kept += rows.size();
  }
  CHECK(kept == static_cast<std::size_t>(3 * 2 * 35) - static_cast<std::size_t>(0.6 * (3 * 2 * 35)));
  plan.record.second_pass = SecondPassPlan{.chunk = 0, .first_request = ""};
  LlamaCapture(plan).run(scratch("kvcompose.h5"));
  const SecondPass whole = Reader(scratch("kvcompose.h5")).read_second_pass(0).value();
  CHECK(whole.chunk == std::vector<Span>(35, Span{0, 35}));
  CHECK(replayed(scratch("kvcompose.h5"), "kvcompose", "0.4").cuts.size() == 3);
}

TEST_CASE("documents read alone have the keys and values of their own prompts") {
  CapturePlan plan = packet_plan();
  LlamaCapture(plan).run(scratch("no_wrapper.h5"));
  const Reader reader(scratch("no_wrapper.h5"));
  CHECK(verify(scratch("no_wrapper.h5")).empty());
  const Packets packets = reader.read_packets(0, PacketSet::bare).value();
  CHECK(packets == Packets{{{3, 13}}, {{13, 21}}});
  CHECK_FALSE(reader.read_packets(0, PacketSet::wrapped));
  CapturePlan single = exact_plan(default_model());
  single.sequence.prompt = "foxjumps";
  single.sequence.decode = 0;
  LlamaCapture(single).run(scratch("alone.h5"));
  for (int layer = 0; layer < 3; ++layer) {
    const PacketTensors both = reader.read_packet_layer(0, layer, PacketSet::bare);
    const LayerTensors alone = Reader(scratch("alone.h5")).read_layer(0, layer);
    for (std::size_t head = 0; head < kv_heads; ++head) {
      for (std::size_t row = 0; row < 8; ++row) {
        CHECK(row_of(both.k, head * 18 + 10 + row) == row_of(alone.k, head * 8 + row));
        CHECK(row_of(both.v, head * 18 + 10 + row) == row_of(alone.v, head * 8 + row));
      }
    }
  }
  // In the first layer a key knows its token and its position only.
  const LayerTensors joint = reader.read_layer(0, 0);
  const PacketTensors first = reader.read_packet_layer(0, 0, PacketSet::bare);
  const models::Rope rope = models::Rope::of(reader.header());
  for (std::size_t head = 0; head < kv_heads; ++head) {
    std::size_t row = 0;
    for (const Packet& packet : packets) {
      for (std::int32_t token = packet.document.first; token < packet.document.last; ++token, ++row) {
        std::vector<double> key = row_of(first.k, head * 18 + row);
        rope.apply(std::span<double>(key), packet.document.first);
        const std::vector<double> expected =
            row_of(joint.k, head * static_cast<std::size_t>(joint.length) + static_cast<std::size_t>(token));
        for (std::size_t c = 0; c < width; ++c) CHECK(key[c] == Approx(expected[c]).margin(1e-5));
      }
    }
  }
  require_same(
      reader,
      [] {
        CapturePlan without = exact_plan(default_model());
        LlamaCapture(without).run(scratch("without_packets.h5"));
        return Reader(scratch("without_packets.h5"));
      }(),
      0);
}

TEST_CASE("the rows behind packets attend what the format says they attend") {
  CapturePlan plan = packet_plan();
  plan.record.packets = PacketPlan{.header = "AB", .trailer = "tokens:70", .embeddings = ""};
  plan.engine.ubatch = GENERATE(512, 4);
  LlamaCapture(plan).run(scratch("wrapped.h5"));
  CHECK(verify(scratch("wrapped.h5")).empty());
  const Reader reader(scratch("wrapped.h5"));
  const Packets packets = reader.read_packets(0, PacketSet::wrapped).value();
  CHECK(packets == Packets{{{3, 13}, 2, 1}, {{13, 21}, 2, 1}});
  const auto ids = reader.read_channel(0, Channel::token_ids)->data;
  const std::vector<std::int32_t> tokens(ids.begin(), ids.end());
  const auto length = tokens.size();
  const std::size_t rows = 24, behind = length - 21;

  std::vector<StepRows> steps;
  Engine engine(entries_needed(packets, static_cast<std::int32_t>(length)), 2);
  const auto tokenize = [&](const std::string& text) {
    return text == "AB" ? tiny_tokens("AB") : std::vector<std::int32_t>{70};
  };
  const Wrapper wrapper = make_wrapper(*plan.record.packets, hidden, tiny_vocabulary, tokenize);
  PacketPass(engine.context, engine.collector, 512, tokens)
      .read_behind(packets, wrapper, 35, [&](const StepRows& step) { steps.push_back(step); });
  REQUIRE(steps.size() == 1 + 9);

  const models::Rope rope = models::Rope::of(reader.header());
  for (std::size_t layer = 0; layer < 3; ++layer) {
    const LayerTensors joint = reader.read_layer(0, static_cast<int>(layer));
    const PacketTensors alone = reader.read_packet_layer(0, static_cast<int>(layer), PacketSet::wrapped);
    const Tensor w_o = reader.read_weight(static_cast<int>(layer), LayerWeight::w_o).value();
    std::vector<std::vector<Entry>> entries(kv_heads);
    for (std::size_t head = 0; head < kv_heads; ++head) {
      for (std::size_t i = 0; i < 3; ++i) {
        entries[head].push_back({row_of(joint.k, head * length + i), row_of(joint.v, head * length + i)});
      }
      for (std::size_t i = 0; i < rows; ++i) {
        Entry entry{row_of(alone.k, head * rows + i), row_of(alone.v, head * rows + i)};
        rope.apply(std::span<double>(entry.key), i < 13 ? 3 : 16);
        entries[head].push_back(std::move(entry));
      }
    }
    double largest = 0;
    std::size_t row = 0;
    for (const StepRows& step : steps) {
      CHECK(step.first == 27 + static_cast<std::int32_t>(row));
      for (std::int32_t i = 0; i < step.count; ++i, ++row) {
        std::vector<std::vector<double>> queries;
        for (std::size_t head = 0; head < query_heads; ++head)
          queries.push_back(row_of(alone.after_q, head * behind + row));
        for (std::size_t head = 0; head < kv_heads; ++head) {
          entries[head].push_back(
              {row_of(alone.after_k, head * behind + row), row_of(alone.after_v, head * behind + row)});
        }
        largest = std::max(largest, relative_error(attention_output(queries, entries, w_o),
                                                   step.layers[layer].attention_output, static_cast<std::size_t>(i)));
      }
    }
    CHECK(row == behind);
    CHECK(largest < 2e-5);
  }
}

TEST_CASE("kvpacket replays on captured packets") {
  CapturePlan plan = packet_plan();
  plan.record.packets = PacketPlan{.header = "AB", .trailer = "C", .embeddings = ""};
  LlamaCapture(plan).run(scratch("kvpacket.h5"));
  const test::ReplayCollector results = replayed(scratch("kvpacket.h5"),
                                                 "kvpacket,kvpacket(packets=bare),kvpacket(loop=closed),"
                                                 "kvpacket(press='snapkv(window=4)',protect=true)",
                                                 "0.5");
  CHECK(results.skipped_policies.empty());
  for (const auto& [key, rows] : results.rows) {
    for (const float error : rows.output_error) CHECK((error > 0 && std::isfinite(error)));
  }
}

TEST_CASE("trained boundaries enter as embeddings") {
  const fs::path model = scratch("embedded.gguf");
  const TinyWeights weights = write_tiny_model(model, {});
  const auto embedding_of = [&](const std::string& text) {
    std::vector<float> rows;
    for (const std::int32_t token : tiny_tokens(text)) {
      const auto begin = weights.at("token_embd.weight").begin() + static_cast<std::ptrdiff_t>(token) * 48;
      rows.insert(rows.end(), begin, begin + 48);
    }
    return rows;
  };
  {
    WeightsFile file(scratch("boundaries.h5").string());
    file.write("layer_000/header", {{2, 48}, embedding_of("AB")});
    file.write("layer_000/trailer", {{1, 48}, embedding_of("C")});
  }
  CapturePlan plan = packet_plan();
  plan.model = model;
  plan.record.packets = PacketPlan{.header = "AB", .trailer = "C", .embeddings = ""};
  LlamaCapture(plan).run(scratch("by_token.h5"));
  plan.record.packets = PacketPlan{.header = "", .trailer = "", .embeddings = scratch("boundaries.h5").string()};
  LlamaCapture(plan).run(scratch("by_embedding.h5"));
  const Reader tokens(scratch("by_token.h5")), embeddings(scratch("by_embedding.h5"));
  CHECK(tokens.read_packets(0, PacketSet::wrapped) == embeddings.read_packets(0, PacketSet::wrapped));
  for (int layer = 0; layer < 3; ++layer) {
    const PacketTensors a = tokens.read_packet_layer(0, layer, PacketSet::wrapped);
    const PacketTensors b = embeddings.read_packet_layer(0, layer, PacketSet::wrapped);
    CHECK(largest_difference(a.k, b.k) < 1e-5);
    CHECK(largest_difference(a.v, b.v) < 1e-5);
    CHECK(largest_difference(a.after_q, b.after_q) < 1e-5);
  }
}

TEST_CASE("passes that cannot be recorded are refused with their reason") {
  const auto refused = [](const CapturePlan& plan, const std::string& reason) {
    CHECK_THROWS_WITH(LlamaCapture(plan), Catch::Contains(reason));
  };
  const CapturePlan good = exact_plan(default_model());
  CapturePlan plan = good;
  const auto reset = [&]() -> CapturePlan& { return plan = good; };
  reset().record.packets = PacketPlan{};
  refused(plan, "--span document");
  plan.sequence.spans = {parse_span("document=tokens:2:9"), parse_span("document=tokens:8:12")};
  refused(plan, "overlap");
  plan.sequence.spans = {parse_span("document=tokens:2:9")};
  plan.record.packets->header = "tokens:5,x";
  refused(plan, "tokens:5,6,7");
  plan.record.packets->header = "tokens:5,260";
  refused(plan, "vocabulary of 260");
  plan.record.packets->header = "A";
  plan.record.packets->embeddings = scratch("absent.h5").string();
  refused(plan, "not both");
  plan.record.packets->header.clear();
  refused(plan, "absent.h5");
  WeightsFile(scratch("narrow.h5").string()).write("layer_000/header", {{2, 24}, std::vector<float>(48, 1)});
  plan.record.packets->embeddings = scratch("narrow.h5").string();
  refused(plan, "D = 48");

  reset().record.second_pass = SecondPassPlan{.chunk = -1};
  refused(plan, "second-pass-chunk");
  plan.record.second_pass = SecondPassPlan{.range = Span{4, 90}};
  refused(plan, "0:35");
  plan.record.second_pass = SecondPassPlan{.first_request = std::string(220, 'a')};
  refused(plan, "context of 256");
  write_tiny_model(scratch("gemma_passes.gguf"), {.architecture = "gemma2", .hidden = 64});
  plan.model = scratch("gemma_passes.gguf");
  plan.record.second_pass = SecondPassPlan{};
  refused(plan, "sliding-window");
}

}  // namespace evictsim::tests

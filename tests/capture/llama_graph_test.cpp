// Are the nodes that are taken from the graph, and the numbers read beside them, the ones a trace promises?

#include <ggml.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>

#include "models/rope.h"
#include "tests/capture/tiny_model.h"
#include "traces/capture/llama_capture.h"
#include "traces/capture/node_collector.h"
#include "traces/error.h"
#include "traces/reader.h"

namespace evictsim::tests {
namespace {

namespace fs = std::filesystem;
using namespace traces;           // NOLINT(google-build-using-namespace): the names under test
using namespace traces::capture;  // NOLINT(google-build-using-namespace)

fs::path scratch(const std::string& name) { return fs::path(EVICTSIM_TEST_SCRATCH) / name; }

CapturePlan exact_plan(const fs::path& model) {
  CapturePlan plan;
  plan.model = model;
  plan.engine.flash_attention = FlashAttention::off;
  plan.engine.cache_type = CacheType::float32;
  plan.sequence.decode = 8;
  plan.sequence.ignore_end = true;
  plan.record.tensor_type = TensorType::float32;
  plan.record.hidden = true;
  return plan;
}

// A matrix [rows, columns] times a vector.
std::vector<double> product(const std::vector<float>& matrix, const std::vector<double>& vector) {
  std::vector<double> result(matrix.size() / vector.size(), 0.0);
  for (std::size_t row = 0; row < result.size(); ++row) {
    for (std::size_t i = 0; i < vector.size(); ++i) {
      result[row] += static_cast<double>(matrix[row * vector.size() + i]) * vector[i];
    }
  }
  return result;
}

double norm(const std::vector<double>& vector) {
  double sum = 0;
  for (const double value : vector) sum += value * value;
  return std::sqrt(sum);
}

std::vector<double> row_of(const Tensor& tensor, std::size_t row) {
  const std::size_t width = tensor.shape.at(1);
  const auto begin = tensor.data.begin() + static_cast<std::ptrdiff_t>(row * width);
  return {begin, begin + static_cast<std::ptrdiff_t>(width)};
}

}  // namespace

TEST_CASE("the recorded rotation is the one the engine applied") {
  // With one token repeated, the queries of layer 0 differ by their rotation only.
  struct Variant {
    std::string name;
    TinyModel model;
    RopeLayout layout;
    int pairs;
  };
  const Variant variant =
      GENERATE(Variant{"plain", {}, RopeLayout::interleaved, 8},
               Variant{"large_base", {.rope_base = 500000}, RopeLayout::interleaved, 8},
               Variant{"partial", {.architecture = "stablelm", .hidden = 64, .rotary_dim = 8}, RopeLayout::half, 4},
               Variant{"yarn", {.yarn_factor = 4}, RopeLayout::interleaved, 8},
               Variant{"divisors", {.rope_divisors = true}, RopeLayout::interleaved, 8},
               Variant{"half", {.architecture = "qwen2", .hidden = 64}, RopeLayout::half, 8},
               Variant{"half_yarn",
                       {.architecture = "qwen2", .hidden = 64, .rope_base = 1000, .yarn_factor = 4},
                       RopeLayout::half,
                       8});
  INFO(variant.name);
  const fs::path model = scratch(variant.name + ".gguf"), output = scratch(variant.name + ".h5");
  write_tiny_model(model, variant.model);
  CapturePlan plan = exact_plan(model);
  plan.sequence.prompt_tokens.assign(90, 42);
  plan.sequence.decode = 0;
  const CaptureReport report = LlamaCapture(plan).run(output);
  CHECK(report.check->largest <= 1e-5);

  const Reader reader(output);
  const Header& header = reader.header();
  CHECK(header.rope_layout == variant.layout);
  CHECK(header.inv_freq.size() == static_cast<std::size_t>(variant.pairs));
  CHECK(header.rotated() == 2 * variant.pairs);
  CHECK(header.norm_kind == (variant.model.architecture == "stablelm" ? NormKind::layer : NormKind::rms));
  CHECK(header.rope_theta == Approx(static_cast<double>(variant.model.rope_base)));
  CHECK((header.rope_attention_scaling > 1) == (variant.model.yarn_factor > 0));
  const models::Rope rope = models::Rope::of(header);
  const LayerTensors tensors = reader.read_layer(0, 0);
  const auto width = static_cast<std::size_t>(header.head_dim), length = static_cast<std::size_t>(tensors.length);
  for (const auto* heads : {&tensors.q, &tensors.k}) {
    double largest = 0, moved = 0;
    for (std::size_t head = 0; head < heads->size() / (width * length); ++head) {
      const auto at = [&](std::size_t row) { return std::span(*heads).subspan((head * length + row) * width, width); };
      std::vector<double> first(at(0).begin(), at(0).end());
      rope.invert(std::span<double>(first), 0);
      for (std::size_t row = 1; row < length; ++row) {
        std::vector<double> turned(at(row).begin(), at(row).end());
        rope.invert(std::span<double>(turned), static_cast<double>(row));
        for (std::size_t i = 0; i < width; ++i) {
          largest = std::max(largest, std::abs(turned[i] - first[i]));
          moved = std::max(moved, static_cast<double>(std::abs(at(row)[i] - at(0)[i])));
        }
      }
    }
    CHECK(moved > 1);  // there was something to undo
    CHECK(largest < 2e-4);
  }
}

TEST_CASE("q, k and v are the projections of the recorded residual stream") {
  const fs::path model = scratch("projections.gguf"), output = scratch("projections.h5");
  const TinyWeights weights = write_tiny_model(model, {});
  CapturePlan plan = exact_plan(model);
  plan.sequence.prompt_tokens = tiny_tokens("somewordsofaprompt");
  LlamaCapture(plan).run(output);
  const Reader reader(output);
  const Header& header = reader.header();
  const models::Rope rope = models::Rope::of(header);
  const auto tokens = reader.read_channel(0, Channel::token_ids)->data;
  for (const int layer : header.layers) {
    const std::string block = "blk." + std::to_string(layer) + ".";
    CHECK(reader.read_weight(layer, LayerWeight::w_o)->data == weights.at(block + "attn_output.weight"));
    CHECK(reader.read_weight(layer, LayerWeight::w_o)->shape == std::vector<std::size_t>{48, 64});
    const std::vector<float> norm_weight = reader.read_weight(layer, LayerWeight::input_norm)->data;
    CHECK(norm_weight == weights.at(block + "attn_norm.weight"));
    const Tensor hidden = reader.read_hidden(0, layer).value();
    const LayerTensors tensors = reader.read_layer(0, layer);
    const auto length = static_cast<std::size_t>(tensors.length);
    double largest = 0;
    for (std::size_t row = 0; row < length; ++row) {
      std::vector<double> input = row_of(hidden, row);
      const double mean_square = norm(input) * norm(input) / static_cast<double>(input.size());
      for (std::size_t i = 0; i < input.size(); ++i) {
        input[i] *= static_cast<double>(norm_weight[i]) / std::sqrt(mean_square + header.norm_epsilon.value());
      }
      const auto compare = [&](const char* weight, const std::vector<float>& heads, bool rotate) {
        std::vector<double> expected = product(weights.at(block + weight), input);
        for (std::size_t head = 0; head < expected.size() / 16; ++head) {
          const std::span<double> part = std::span(expected).subspan(head * 16, 16);
          if (rotate) rope.apply(part, static_cast<double>(row));
          for (std::size_t i = 0; i < 16; ++i) {
            const auto recorded = static_cast<double>(heads[(head * length + row) * 16 + i]);
            largest = std::max(largest, std::abs(part[i] - recorded));
          }
        }
      };
      compare("attn_q.weight", tensors.q, true);
      compare("attn_k.weight", tensors.k, true);
      compare("attn_v.weight", tensors.v, false);
    }
    CHECK(largest < 5e-5);
  }
  const Tensor first = reader.read_hidden(0, 0).value();
  for (std::size_t row = 0; row < tokens.size(); ++row) {
    const auto embedding = weights.at("token_embd.weight").begin() + static_cast<std::ptrdiff_t>(tokens[row]) * 48;
    CHECK(std::equal(embedding, embedding + 48, first.data.begin() + static_cast<std::ptrdiff_t>(row) * 48));
  }
}

TEST_CASE("side channels agree with the recorded residual stream and the model's own head") {
  const fs::path model = scratch("channels.gguf"), output = scratch("channels.h5");
  const TinyWeights weights = write_tiny_model(model, {});
  CapturePlan plan = exact_plan(model);
  plan.sequence.prompt_tokens = tiny_tokens("theotherprompt");
  plan.engine.ubatch = 6;  // channels that look back one row do so across steps
  LlamaCapture(plan).run(output);
  const Reader reader(output);
  const auto length = static_cast<std::size_t>(reader.sequences().at(0).length);
  const std::vector<Tensor> hidden = {reader.read_hidden(0, 0).value(), reader.read_hidden(0, 1).value(),
                                      reader.read_hidden(0, 2).value()};
  const Tensor step_norm = reader.read_channel(0, Channel::step_norm).value();
  const Tensor residual_norm = reader.read_channel(0, Channel::residual_norm).value();
  const Tensor cos_attention = reader.read_channel(0, Channel::cos_attention).value();
  const Tensor cos_final = reader.read_channel(0, Channel::cos_final).value();
  const Tensor final_norm_input = reader.read_channel(0, Channel::final_norm_input).value();
  for (std::size_t layer = 0; layer < 3; ++layer) {
    const LayerTensors tensors = reader.read_layer(0, static_cast<int>(layer));
    for (std::size_t row = 0; row < length; ++row) {
      const std::vector<double> input = row_of(hidden[layer], row);
      CHECK(static_cast<double>(residual_norm.data[layer * length + row]) == Approx(norm(input)));
      if (layer < 2 && row == 0) CHECK(step_norm.data[layer * length] == 0);
      if (layer < 2 && row > 0) {
        std::vector<double> difference = row_of(hidden[layer + 1], row);
        const std::vector<double> before = row_of(hidden[layer + 1], row - 1);
        for (std::size_t i = 0; i < difference.size(); ++i) difference[i] -= before[i];
        CHECK(static_cast<double>(step_norm.data[layer * length + row]) == Approx(norm(difference)));
      }
      if (layer == 2) CHECK(cos_final.data[layer * length + row] == Approx(1));
      CHECK(final_norm_input.data[row] > 0);
    }
    // Row 0 attends to itself only, so its attention block adds W_O times v of its group.
    std::vector<double> heads;
    for (std::size_t head = 0; head < 4; ++head) {
      const auto value = std::span(tensors.v).subspan((head / 2) * length * 16, 16);
      heads.insert(heads.end(), value.begin(), value.end());
    }
    const auto added = product(reader.read_weight(static_cast<int>(layer), LayerWeight::w_o)->data, heads);
    const std::vector<double> input = row_of(hidden[layer], 0);
    std::vector<double> sum = input;
    double dot = 0;
    for (std::size_t i = 0; i < sum.size(); ++i) {
      sum[i] += added[i];
      dot += sum[i] * input[i];
    }
    CHECK(static_cast<double>(cos_attention.data[layer * length]) ==
          Approx(dot / (norm(sum) * norm(input))).margin(1e-5));
  }

  const auto entropy = reader.read_channel(0, Channel::entropy)->data;
  const auto entropy_top = reader.read_channel(0, Channel::entropy_top)->data;
  const auto logprob = reader.read_channel(0, Channel::logprob)->data;
  CHECK(std::isnan(logprob.at(0)));
  for (std::size_t row = 0; row < length; ++row) {
    CHECK(entropy[row] > 0);
    CHECK(entropy[row] <= std::log(static_cast<float>(tiny_vocabulary)) * 1.0001F);
    CHECK(entropy_top[3 * row] < entropy[row]);
    CHECK(entropy_top[3 * row + 2] == Approx(entropy[row]));  // the vocabulary is smaller than 512
    if (row > 0) CHECK(logprob[row] < 0);
  }
}

TEST_CASE("layers of a model with biases and the half layout are captured whole") {
  const fs::path model = scratch("qwen2.gguf"), output = scratch("qwen2.h5");
  write_tiny_model(model, {.architecture = "qwen2", .query_heads = 6, .kv_heads = 1, .hidden = 96});
  CapturePlan plan = exact_plan(model);
  plan.sequence.prompt = "oneKVheadforsixqueries";
  const CaptureReport report = LlamaCapture(plan).run(output);
  CHECK(report.check->largest <= 1e-5);
  CHECK(report.check->compared == 24);
  const Header header = Reader(output).header();
  CHECK(header.num_kv_heads == 1);
  CHECK(header.group_size() == 6);
  CHECK(header.hidden_size == 96);
}

TEST_CASE("values that lie apart in a fused product are gathered") {
  const fs::path model = scratch("phi3.gguf"), output = scratch("phi3.h5");
  const TinyWeights weights = write_tiny_model(model, {.architecture = "phi3", .hidden = 64});
  CapturePlan plan = exact_plan(model);
  plan.sequence.prompt_tokens = tiny_tokens("fused");
  const CaptureReport report = LlamaCapture(plan).run(output);
  CHECK(report.check->largest <= 1e-5);
  CHECK(report.check->compared > 0);
}

TEST_CASE("soft cap, scaled queries, output norms and sliding windows are recorded as they act") {
  const fs::path model = scratch("gemma2.gguf"), output = scratch("gemma2.h5");
  const TinyWeights weights = write_tiny_model(model, {.architecture = "gemma2", .hidden = 64, .sliding_window = 12});
  CapturePlan plan = exact_plan(model);
  plan.engine.flash_attention = GENERATE(FlashAttention::off, FlashAttention::on);
  plan.sequence.prompt = "apromptmuchlongerthanthewindow";
  const CaptureReport report = LlamaCapture(plan).run(output);
  CHECK(report.check->largest <=
        (plan.engine.flash_attention == FlashAttention::off ? 1e-5 : 5e-3));  // the fused kernel rounds
  const Reader reader(output);
  const Header& header = reader.header();
  CHECK(header.attention_scale == Approx(0.25));
  CHECK(header.logit_softcap == 3);
  CHECK(header.sliding_window == std::vector<int>{12, 0, 12});
  CHECK(reader.read_weight(1, LayerWeight::output_norm)->data == weights.at("blk.1.post_attention_norm.weight"));
  CHECK(reader.has_channel(0, Channel::cos_attention));
}

TEST_CASE("an unknown pattern of sliding windows is refused only where it matters") {
  const fs::path model = scratch("no_pattern.gguf");
  write_tiny_model(model, {.architecture = "gemma2", .hidden = 64, .sliding_window = 30, .sliding_pattern = false});
  CapturePlan plan = exact_plan(model);
  plan.sequence.prompt = std::string(22, 'a');
  const CaptureReport report = LlamaCapture(plan).run(scratch("no_pattern.h5"));
  CHECK(report.check->largest <= 1e-5);
  CHECK(Reader(scratch("no_pattern.h5")).header().sliding_window.empty());
  plan.sequence.prompt += 'a';
  CHECK_THROWS_WITH(LlamaCapture(plan), Catch::Contains("30 tokens"));
}

TEST_CASE("the product with W_O is found by its weight, also by that of a copy on another device") {
  const std::unique_ptr<ggml_context, void (*)(ggml_context*)> context(
      ggml_init({.mem_size = 1 << 16, .mem_buffer = nullptr, .no_alloc = true}), ggml_free);
  NodeCollector collector({.num_layers = 3,
                           .layers = {1},
                           .num_query_heads = 2,
                           .num_kv_heads = 1,
                           .head_dim = 4,
                           .hidden_size = 8,
                           .attention_output = true});
  const auto is_taken = [&](const char* name) {
    ggml_tensor* weight = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, 8, 8);
    ggml_set_name(weight, name);
    ggml_tensor* product = ggml_mul_mat(context.get(), weight, ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, 8, 3));
    return NodeCollector::on_node(product, true, &collector);
  };
  CHECK(is_taken("blk.1.attn_output.weight"));
  CHECK(is_taken("CUDA0#blk.1.attn_output.weight#0"));
  CHECK_FALSE(is_taken("blk.0.attn_output.weight"));
  CHECK_FALSE(is_taken("CUDA0#blk.2.attn_output.weight#0"));
  CHECK_FALSE(is_taken("CUDA0#blk.1.ffn_up.weight#0"));
  CHECK_FALSE(is_taken("#"));
}

}  // namespace evictsim::tests

// Does a trace captured from llama.cpp hold exactly what the engine computed, whatever the options?

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "tests/capture/exact_capture.h"
#include "tests/capture/tiny_model.h"
#include "traces/capture/llama_capture.h"
#include "traces/error.h"
#include "traces/reader.h"
#include "traces/verify.h"

namespace evictsim::tests {

TEST_CASE("a captured trace gives back the engine's own attention") {
  const fs::path output = scratch("exact.h5");
  LlamaCapture capture(exact_plan(default_model()));
  const CaptureReport report = capture.run(output);
  CHECK(report.prompt_length == static_cast<std::int32_t>(prompt_text.size()));
  CHECK(report.length == report.prompt_length + 9);
  REQUIRE(report.check);
  CHECK(report.check->compared == 3 * 9);  // nine rows of each layer
  CHECK(report.tolerance == 1e-5);
  CHECK(report.check->largest <= 1e-5);
  CHECK(verify(output).empty());

  const Reader reader(output);
  const Header& header = reader.header();
  CHECK(header.model == "tiny");
  CHECK(header.engine == "llama.cpp");
  CHECK(header.layers == std::vector<int>{0, 1, 2});
  CHECK(header.num_layers == 3);
  CHECK(header.num_query_heads == 4);
  CHECK(header.num_kv_heads == 2);
  CHECK(header.head_dim == 16);
  CHECK(header.hidden_size == 48);
  CHECK(header.vocab_size == tiny_vocabulary);
  CHECK(header.attention_scale == 0.25);
  CHECK(header.rope_layout == RopeLayout::interleaved);
  CHECK(header.norm_kind == NormKind::rms);
  CHECK(header.norm_epsilon == Approx(1e-5));
  CHECK(header.extra.at("capture_threads") == "1");
  CHECK(header.extra.at("capture_ubatch") == "512");
  CHECK(header.extra.at("capture_flash_attention") == "off");
  CHECK(header.extra.at("capture_cache_type") == "f32");
  CHECK(header.extra.at("capture_model_file") == "tiny.gguf");
  CHECK(header.extra.at("capture_model_name") == "tiny random model");
  CHECK(header.extra.at("capture_decoding") == "greedy");
  CHECK(header.extra.at("capture_gpu_layers") == "0");
  CHECK(header.dropped_rows == 0);
  const SequenceInfo& sequence = reader.sequences().at(0);
  std::vector<std::int32_t> counted(static_cast<std::size_t>(report.length));
  std::iota(counted.begin(), counted.end(), 0);
  CHECK(sequence.positions == counted);
  CHECK(sequence.prompt_length == report.prompt_length);
  CHECK_FALSE(sequence.text);
  for (const int layer : header.layers) CHECK(reader.query_rows(0, layer) == counted);
  const auto expected = tiny_tokens(prompt_text);
  const auto tokens = reader.read_channel(0, Channel::token_ids)->data;
  CHECK(std::vector<std::int32_t>(tokens.begin(), tokens.begin() + report.prompt_length) == expected);
}

TEST_CASE("with half precision in the engine and the file the check still holds to its looser bound") {
  CapturePlan plan = exact_plan(default_model());
  plan.engine.flash_attention = FlashAttention::on;
  plan.engine.cache_type = CacheType::float16;
  plan.record.tensor_type = GENERATE(TensorType::float16, TensorType::bfloat16);
  const CaptureReport report = LlamaCapture(plan).run(scratch("half.h5"));
  REQUIRE(report.check);
  CHECK(report.tolerance == 2e-2);
  CHECK(report.check->largest <= 2e-2);
  CHECK(report.check->largest > 1e-5);  // so the comparison does see rounding
  CHECK(Reader(scratch("half.h5")).header().extra.at("capture_flash_attention") == "on");
}

TEST_CASE("a prompt in several steps gives the trace of one step") {
  CapturePlan plan = exact_plan(default_model());
  LlamaCapture(plan).run(scratch("one_step.h5"));
  plan.engine.ubatch = GENERATE(7, 32);
  LlamaCapture(plan).run(scratch("steps.h5"));
  require_same(Reader(scratch("one_step.h5")), Reader(scratch("steps.h5")), 2e-5);
}

TEST_CASE("teacher forcing on the greedy tokens gives the greedy trace") {
  CapturePlan plan = exact_plan(default_model());
  LlamaCapture(plan).run(scratch("greedy.h5"));
  const Reader greedy(scratch("greedy.h5"));
  const auto tokens = greedy.read_channel(0, Channel::token_ids)->data;
  plan.sequence.continuation_tokens.assign(tokens.begin() + static_cast<std::ptrdiff_t>(prompt_text.size()),
                                           tokens.end());
  LlamaCapture(plan).run(scratch("forced.h5"));
  const Reader forced(scratch("forced.h5"));
  require_same(greedy, forced, 0);
  CHECK(forced.header().extra.at("capture_decoding") == "teacher_forced");
}

TEST_CASE("a text continuation is teacher-forced token by token") {
  CapturePlan plan = exact_plan(default_model());
  plan.sequence.continuation = "andsoon";
  const CaptureReport report = LlamaCapture(plan).run(scratch("text.h5"));
  CHECK(report.continuation == "andsoon");
  CHECK(report.length - report.prompt_length == 7);
}

TEST_CASE("greedy decoding stops before the model's end token") {
  CapturePlan plan = exact_plan(default_model());
  plan.sequence.decode = 100;
  LlamaCapture(plan).run(scratch("unbounded.h5"));
  const auto tokens = Reader(scratch("unbounded.h5")).read_channel(0, Channel::token_ids)->data;
  const auto end = std::find(tokens.begin(), tokens.end(), 2.0F);
  plan.sequence.ignore_end = false;
  const CaptureReport report = LlamaCapture(plan).run(scratch("ended.h5"));
  CHECK(report.length == end - tokens.begin());
}

TEST_CASE("a subset of layers holds what the full capture holds for them") {
  CapturePlan plan = exact_plan(default_model());
  LlamaCapture(plan).run(scratch("all_layers.h5"));
  const Reader all(scratch("all_layers.h5"));
  plan.record.layers = {2, 0};
  LlamaCapture(plan).run(scratch("subset.h5"));
  const Reader subset(scratch("subset.h5"));
  CHECK(subset.header().layers == std::vector<int>{0, 2});
  CHECK(subset.header().num_layers == 3);
  const auto length = static_cast<std::size_t>(subset.sequences().at(0).length);
  for (std::size_t i = 0; i < 2; ++i) {
    const int layer = subset.header().layers[i];
    CHECK(largest_difference(all.read_layer(0, layer).k, subset.read_layer(0, layer).k) == 0);
    for (const Channel channel :
         {Channel::step_norm, Channel::cos_final, Channel::cos_attention, Channel::residual_norm}) {
      const auto few = subset.read_channel(0, channel)->data, many = all.read_channel(0, channel)->data;
      const std::vector<float> row(few.begin() + static_cast<std::ptrdiff_t>(i * length),
                                   few.begin() + static_cast<std::ptrdiff_t>((i + 1) * length));
      const auto other = many.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(layer) * length);
      CHECK(std::equal(row.begin(), row.end(), other));
    }
  }
}

TEST_CASE("query rows are kept as asked, layer by layer") {
  CapturePlan plan = exact_plan(default_model());
  plan.engine.ubatch = 8;
  LlamaCapture(plan).run(scratch("every_query.h5"));
  const LayerTensors every = Reader(scratch("every_query.h5")).read_layer(0, 0);
  plan.record.queries = parse_query_sample("q-rows", "window:12+decode");
  plan.record.full_query_layers = {1};
  const CaptureReport report = LlamaCapture(plan).run(scratch("window.h5"));
  CHECK(verify(scratch("window.h5")).empty());
  const Reader reader(scratch("window.h5"));
  const LayerTensors window = reader.read_layer(0, 0);
  REQUIRE(window.q_rows.size() == 12 + 9);
  CHECK(window.q_rows.front() == report.prompt_length - 12);
  CHECK(window.q_rows.back() == report.length - 1);
  CHECK(reader.query_rows(0, 1).size() == static_cast<std::size_t>(report.length));
  const auto head = static_cast<std::ptrdiff_t>(window.q_rows.size()) * 16;
  const auto skipped = static_cast<std::ptrdiff_t>(report.prompt_length - 12) * 16;
  CHECK(std::equal(window.q.begin(), window.q.begin() + head, every.q.begin() + skipped));  // query head 0
}

TEST_CASE("spans, task and text of a templated prompt are recorded") {
  const fs::path model = scratch("chat.gguf");
  write_tiny_model(model, {.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}{% endfor %}"});
  CapturePlan plan = exact_plan(model);
  plan.sequence.chat_template = true;
  plan.sequence.task = "needle";
  plan.sequence.spans = {parse_span("evidence=brown"), parse_span("question=tokens:2:5"), parse_span("evidence=quick")};
  plan.record.store_text = true;
  LlamaCapture(plan).run(scratch("chat.h5"));
  CHECK(verify(scratch("chat.h5")).empty());
  const Reader reader(scratch("chat.h5"));
  const SequenceInfo& sequence = reader.sequences().at(0);
  const std::string text = sequence.text.value();
  CHECK(text == "<|im_start|>user\n" + prompt_text + "<|im_end|>\n<|im_start|>assistant\n");
  CHECK(sequence.task == "needle");
  REQUIRE(sequence.token_texts);
  REQUIRE(std::ssize(*sequence.token_texts) == sequence.length);
  const auto prompt = sequence.token_texts->begin();
  CHECK(std::accumulate(prompt, prompt + sequence.prompt_length, std::string()) == text);
  const auto brown = static_cast<std::int32_t>(text.find("brown"));  // one token a byte
  CHECK(sequence.spans.at("evidence") == std::vector<Span>{{brown - 5, brown}, {brown, brown + 5}});
  CHECK(sequence.spans.at("question") == std::vector<Span>{{2, 5}});
  CHECK(reader.header().extra.at("capture_chat_template") == "yes");
}

TEST_CASE("the overhead of capturing is measured when asked for") {
  CapturePlan plan = exact_plan(default_model());
  plan.record.measure_overhead = true;
  const CaptureReport report = LlamaCapture(plan).run(scratch("overhead.h5"));
  REQUIRE(report.overhead);
  CHECK(*report.overhead > 0);
  CHECK(report.uncaptured->prefill > 0);
  CHECK(Reader(scratch("overhead.h5")).header().capture_overhead == report.overhead);
}

TEST_CASE("a failed check renames the trace and says where it differs") {
  CapturePlan plan = exact_plan(default_model());
  plan.record.tolerance = 1e-12;
  fs::remove(scratch("rejected.h5"));
  LlamaCapture capture(plan);
  CHECK_THROWS_WITH(capture.run(scratch("rejected.h5")), Catch::Contains("layer") && Catch::Contains("1e-12"));
  CHECK_FALSE(fs::exists(scratch("rejected.h5")));
  CHECK(fs::exists(scratch("rejected.h5.rejected")));
}

TEST_CASE("what cannot be captured is refused with its reason") {
  const auto code_of = [](const CapturePlan& plan, const std::string& reason) {
    try {
      LlamaCapture capture(plan);
    } catch (const Error& error) {
      CHECK_THAT(error.what(), Catch::Contains(reason));
      CHECK(std::string(error.what()).find('\n') == std::string::npos);
      return error.code();
    }
    FAIL("expected an error: " << reason);
    return ErrorCode::interrupted;
  };
  const CapturePlan good = exact_plan(default_model());
  CapturePlan plan = good;
  const auto reset = [&]() -> CapturePlan& { return plan = good; };

  reset().model = scratch("absent.gguf");
  CHECK(code_of(plan, "absent.gguf") == ErrorCode::file_not_found);
  reset().model = EVICTSIM_TEST_SCRATCH;
  CHECK(code_of(plan, "directory") == ErrorCode::invalid_value);

  std::ofstream(scratch("text.gguf")) << "GG this is no model";
  reset().model = scratch("text.gguf");
  CHECK(code_of(plan, "not a GGUF file") == ErrorCode::invalid_value);

  fs::copy_file(default_model(), scratch("short.gguf"), fs::copy_options::overwrite_existing);
  fs::resize_file(scratch("short.gguf"), 200);
  reset().model = scratch("short.gguf");
  CHECK(code_of(plan, "truncated") == ErrorCode::invalid_value);
  fs::copy_file(default_model(), scratch("short.gguf"), fs::copy_options::overwrite_existing);
  fs::resize_file(scratch("short.gguf"), fs::file_size(default_model()) / 2);
  CHECK(code_of(plan, "cannot load") == ErrorCode::unsupported);

  write_tiny_model(scratch("unknown.gguf"), {.architecture = "not-a-model"});
  reset().model = scratch("unknown.gguf");
  CHECK(code_of(plan, "not-a-model") == ErrorCode::unsupported);
  write_tiny_model(scratch("no_vocabulary.gguf"), {.tokenizer = false});
  reset().model = scratch("no_vocabulary.gguf");
  CHECK(code_of(plan, "token ids") == ErrorCode::unsupported);

  reset().sequence.prompt = std::string(250, 'a');
  CHECK(code_of(plan, "context of 256") == ErrorCode::invalid_argument);
  reset().sequence.prompt.clear();
  CHECK(code_of(plan, "prompt is empty") == ErrorCode::invalid_argument);
  reset().sequence.prompt_tokens = {5, tiny_vocabulary};
  CHECK(code_of(plan, "vocabulary of 260") == ErrorCode::invalid_argument);
  reset().sequence.chat_template = true;
  CHECK(code_of(plan, "chat template") == ErrorCode::unsupported);
  reset().sequence.continuation = "";
  CHECK(code_of(plan, "continuation is empty") == ErrorCode::invalid_argument);
  reset().sequence.spans = {parse_span("evidence=elephant")};
  CHECK(code_of(plan, "elephant") == ErrorCode::invalid_argument);
  reset().record.layers = {0, 3};
  CHECK(code_of(plan, "layers 0 to 2") == ErrorCode::invalid_argument);
  reset().record.layers = {-1};
  CHECK(code_of(plan, "layers 0 to 2") == ErrorCode::invalid_argument);
  reset().record.layers = {0};
  plan.record.full_query_layers = {1};
  CHECK(code_of(plan, "q-all-layers") == ErrorCode::invalid_argument);
  reset().engine.threads = 0;
  CHECK(code_of(plan, "threads") == ErrorCode::invalid_argument);
  reset().engine.gpu_layers = all_layers;  // the engine of these tests is built for the CPU
  CHECK(code_of(plan, "finds no GPU") == ErrorCode::unsupported);
  reset().engine.gpu_layers = -2;
  CHECK(code_of(plan, "gpu-layers") == ErrorCode::invalid_argument);
  reset().engine.ubatch = 0;
  CHECK(code_of(plan, "ubatch") == ErrorCode::invalid_argument);
  reset().sequence.decode = -1;
  CHECK(code_of(plan, "decode") == ErrorCode::invalid_argument);
}

TEST_CASE("a model without tokenizer is captured from token ids") {
  write_tiny_model(scratch("no_vocabulary.gguf"), {.tokenizer = false});
  CapturePlan plan = exact_plan(scratch("no_vocabulary.gguf"));
  plan.sequence.prompt_tokens = {7, 100, 9, 200, 7};
  const CaptureReport report = LlamaCapture(plan).run(scratch("ids.h5"));
  CHECK(report.prompt_length == 5);
  CHECK(report.check->largest <= 1e-5);
}

TEST_CASE("without W_O there is no check and no such dataset") {
  CapturePlan plan = exact_plan(default_model());
  plan.record.output_weights = false;
  CHECK_FALSE(LlamaCapture(plan).run(scratch("no_w_o.h5")).check);
  const Reader reader(scratch("no_w_o.h5"));
  CHECK_FALSE(reader.has_weight(0, LayerWeight::w_o));
  CHECK(reader.has_weight(0, LayerWeight::input_norm));
}

}  // namespace evictsim::tests

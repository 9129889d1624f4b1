// Do the parts that every capture front end shares compute what the trace format says?

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "traces/capture/attention_check.h"
#include "traces/capture/host_tensor.h"
#include "traces/capture/sink/sink.h"
#include "traces/capture/sink_recorder.h"
#include "traces/capture/spans.h"
#include "traces/capture/token_statistics.h"
#include "traces/error.h"
#include "traces/reader.h"

namespace evictsim::tests {
namespace {

using namespace traces;           // NOLINT(google-build-using-namespace): the names under test
using namespace traces::capture;  // NOLINT(google-build-using-namespace)

std::filesystem::path scratch(const std::string& name) { return std::filesystem::path(EVICTSIM_TEST_SCRATCH) / name; }

// One layer, two query heads on one KV head of width 2, three tokens, hidden size 2.
Header small_header() {
  Header header;
  header.model = "by hand";
  header.engine = header.engine_version = "none";
  header.num_layers = header.num_kv_heads = 1;
  header.num_query_heads = header.head_dim = header.hidden_size = 2;
  header.vocab_size = 4;
  header.attention_scale = 1;
  header.rope_theta = 10000;
  header.layers = {0};
  header.inv_freq = {1.0};
  return header;
}

const std::vector<float> small_logits = {0, 1, 2, 3, 1, 1, 1, 1, 0, 0, 5, 0};

StepRows small_step() {
  StepRows step;
  step.count = 3;
  step.layers.resize(1);
  step.layers[0].query = {1, 0, 0, 1, 1, 1, 2, 0, 0, 2, 1, 0};
  step.layers[0].key = {1, 0, 0, 1, 1, 1};
  step.layers[0].value = {1, 2, 3, 4, 5, 6};
  step.layers[0].after_attention = {3, 4, 1, 0, 0, 1};
  step.residual = {{3, 4, 0, 2, 1, 0}, {0, 1, 3, 5, 6, 9}};
  step.logits = small_logits;
  return step;
}

// One sequence of that step into one file, through the sink.
void record_small(const std::string& name, const StepRows& step, TensorType type = TensorType::float32,
                  const std::vector<float>& w_o = {}) {
  std::filesystem::remove(scratch(name));
  CaptureOptions options;
  options.channels.fill(true);
  options.type = type;
  options.single_file = true;
  Sink sink(scratch(name), options);
  sink.set_model(small_header());
  if (!w_o.empty()) sink.add_weight(HostTensor(w_o, {2, 4}).get(), EVICTSIM_CAPTURE_W_O, 0);
  SinkRecorder recorder(sink, "small", small_header(), 2);
  const std::vector<std::int32_t> tokens = {3, 1, 2};
  recorder.add(step, tokens);
  sink.finish_request("small");
  sink.close();
}

}  // namespace

TEST_CASE("entropies are those of the softmax, truncated ones are not renormalised") {
  std::vector<float> logits;
  for (int i = 0; i < 1000; ++i) logits.push_back(static_cast<float>((i * 37 % 1000) * 0.01));
  logits[3] = 50.0F;  // far from the others, so that a naive sum of exponentials loses them
  std::vector<double> probability;
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - 50);
  for (const float logit : logits) probability.push_back(std::exp(static_cast<double>(logit) - 50) / sum);
  std::sort(probability.begin(), probability.end(), std::greater<>());
  const auto entropy_of = [&](std::size_t count) {
    double entropy = 0;
    for (std::size_t i = 0; i < count; ++i) entropy -= probability[i] * std::log(probability[i]);
    return entropy;
  };
  DistributionReducer reducer;
  const Distribution found = reducer.reduce(logits);
  CHECK(found.entropy == Approx(entropy_of(1000)));
  for (std::size_t i = 0; i < 3; ++i) CHECK(found.entropy_top[i] == Approx(entropy_of(entropy_tops[i])));
  CHECK(found.most_probable == 3);
  CHECK(found.log_normaliser == Approx(50 + std::log(sum)));
  const Distribution flat = reducer.reduce(std::vector<float>(256, 7.0F));
  CHECK(flat.entropy == Approx(std::log(256.0)));
  CHECK(flat.entropy_top[0] == Approx(0.5 * std::log(256.0)));
  CHECK(flat.entropy_top[2] == Approx(std::log(256.0)));
  CHECK(flat.most_probable == 0);
}

TEST_CASE("spans are found by snippet or range and refused with a reason") {
  const std::vector<std::string> pieces = {"The", " key", " is", " under", " the bee", "hive", "."};
  const auto locate = [&](const std::string& text) {
    return locate_spans({parse_span(text)}, pieces).begin()->second.at(0);
  };
  CHECK(locate("evidence=key is") == Span{1, 3});
  CHECK(locate("evidence=hive") == Span{5, 6});
  CHECK(locate("evidence=eehi") == Span{4, 6});
  CHECK(locate("question=The key is under the beehive.") == Span{0, 7});
  CHECK(locate("document=tokens:2:7") == Span{2, 7});
  CHECK(locate("evidence=y") == Span{1, 2});
  CHECK_THROWS_WITH(locate("evidence=tokens:2:8"), Catch::Contains("7 tokens"));
  CHECK_THROWS_WITH(locate("evidence=wasp"), Catch::Contains("wasp"));
  CHECK_THROWS_WITH(locate("evidence=he"), Catch::Contains("more than once"));
  for (const char* wrong : {"evidence", "proof=key", "evidence=", "evidence=tokens:3", "evidence=tokens:3:3",
                            "evidence=tokens:-1:2", "evidence=tokens:1:2x", "=key"}) {
    INFO(wrong);
    CHECK_THROWS_AS(parse_span(wrong), Error);
  }
}

TEST_CASE("rows of q are chosen by rule") {
  const auto parse = [](const std::string& text) { return parse_query_sample("q-rows", text); };
  CHECK(parse("all").keeps(0, 100));
  CHECK_FALSE(parse("none").keeps(100, 100));
  const QuerySample window = parse("window:10+decode");
  CHECK_FALSE(window.keeps(89, 100));
  CHECK(window.keeps(90, 100));
  CHECK(window.keeps(100, 100));
  CHECK_FALSE(parse("window:0+decode").keeps(99, 100));
  CHECK_FALSE(parse("window:6").keeps(100, 100));
  CHECK(parse("stride:8+window:1").keeps(16, 100));
  for (const char* wrong : {"", "window:+decode", "window:-1+decode", "stride:0", "window:6x+decode"}) {
    INFO(wrong);
    CHECK_THROWS_WITH(parse(wrong), Catch::Contains("q-rows") && Catch::Contains("window:N"));
  }
}

TEST_CASE("side channels follow their definitions") {
  record_small("channels.h5", small_step());
  const Reader reader(scratch("channels.h5"));
  const auto channel = [&](Channel name) { return reader.read_channel(0, name).value().data; };
  CHECK(channel(Channel::token_ids) == std::vector<float>{3, 1, 2});
  CHECK(channel(Channel::residual_norm) == std::vector<float>{5, 2, 1});
  CHECK(channel(Channel::step_norm) == std::vector<float>{0, 5, 5});  // outputs (0,1), (3,5), (6,9)
  CHECK(channel(Channel::cos_final) == std::vector<float>{1, 1, 1});  // the only layer is the last
  CHECK(channel(Channel::cos_attention) == std::vector<float>{1, 0, 0});
  CHECK(channel(Channel::final_norm_input).at(0) == 1);
  const auto logprob = channel(Channel::logprob);
  CHECK(std::isnan(logprob.at(0)));
  const double normaliser = std::log(1 + std::exp(1.0) + std::exp(2.0) + std::exp(3.0));
  CHECK(static_cast<double>(logprob.at(1)) == Approx(1 - normaliser));  // token 1 from the logits of row 0
  CHECK(static_cast<double>(logprob.at(2)) == Approx(-std::log(4.0)));
  CHECK(static_cast<double>(channel(Channel::entropy).at(1)) == Approx(std::log(4.0)));
  CHECK_FALSE(reader.has_hidden(0, 0));
}

TEST_CASE("without the stream behind attention its channel is left out") {
  StepRows step = small_step();
  step.layers[0].after_attention.clear();
  record_small("no_cosine.h5", step);
  const Reader reader(scratch("no_cosine.h5"));
  CHECK_FALSE(reader.has_channel(0, Channel::cos_attention));
  CHECK(reader.has_channel(0, Channel::cos_final));
}

TEST_CASE("values that cannot be stored stop the recording and leave no file") {
  const auto record = [](TensorType type, float value) {
    StepRows step = small_step();
    step.layers[0].key[3] = value;
    record_small("unstorable.h5", step, type);
  };
  CHECK_THROWS_WITH(record(TensorType::float16, 70000.0F), Catch::Contains("beyond float16"));
  CHECK_THROWS_WITH(record(TensorType::float32, std::nanf("")), Catch::Contains("NaN"));
  CHECK_FALSE(std::filesystem::exists(scratch("unstorable.h5")));
  CHECK_NOTHROW(record(TensorType::bfloat16, 70000.0F));
  CHECK(std::filesystem::exists(scratch("unstorable.h5")));
  const std::filesystem::directory_iterator files(EVICTSIM_TEST_SCRATCH);
  CHECK(
      std::none_of(begin(files), end(files), [](const auto& entry) { return entry.path().extension() == ".partial"; }));
}

TEST_CASE("the attention check accepts right rows and sees wrong ones") {
  // Row 2, head 0: q = (0, 2), logits (0, 2, 2); head 1: q = (1, 0), logits (1, 0, 1). W_O swaps the two heads' firsts.
  const std::vector<float> w_o = {0, 0, 1, 0, 1, 0, 0, 0};
  const double e = std::exp(1.0), e2 = std::exp(2.0);
  const double head_0 = (1 * 1 + 3 * e2 + 5 * e2) / (1 + 2 * e2), head_1 = (1 * e + 3 * 1 + 5 * e) / (1 + 2 * e);
  const auto largest_error = [&](double first, double second, float key) {
    StepRows step = small_step();
    step.layers[0].key[4] = key;
    step.layers[0].attention_output = {0, 0, 0, 0, static_cast<float>(first), static_cast<float>(second)};
    AttentionCheck check({0}, {2}, 2);
    check.add(step);
    record_small("check.h5", step, TensorType::float32, w_o);
    const AttentionCheckResult result = check.compare(Reader(scratch("check.h5")));
    CHECK(result.compared == 1);
    return result.largest;
  };
  CHECK(largest_error(head_1, head_0, 1) < 1e-6);
  CHECK(largest_error(head_0, head_1, 1) > 0.05);   // heads swapped
  CHECK(largest_error(head_1, head_0, -1) > 0.05);  // another key
  CHECK(largest_error(2 * head_1, 2 * head_0, 1) == Approx(0.5));
}

}  // namespace evictsim::tests

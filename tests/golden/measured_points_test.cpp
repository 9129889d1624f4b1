// Do predictions stay as close to measured serving points as the fit left them, and are others marked as not predicted?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "sim/serving/measured_points.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::sim;
namespace fs = std::filesystem;

namespace {

const fs::path sample = EVICTSIM_SOURCE_DIR "/tests/golden/data/aiconfigurator/silicon_sample.csv";

void use_data() { setenv("EVICTSIM_DATA", EVICTSIM_SOURCE_DIR "/models", 1); }

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// The sample's header and the first row, with some fields changed: name, value.
fs::path with_row(const std::vector<std::pair<std::string, std::string>>& changes) {
  std::ifstream stream(sample);
  std::string header, row;
  std::getline(stream, header);
  std::getline(stream, row);
  const auto split = [](const std::string& line) {
    std::vector<std::string> fields(1);
    for (const char c : line) {
      if (c == ',') {
        fields.emplace_back();
      } else {
        fields.back() += c;
      }
    }
    return fields;
  };
  const std::vector<std::string> names = split(header);
  std::vector<std::string> fields = split(row);
  for (const auto& [name, value] : changes) {
    fields.at(static_cast<std::size_t>(std::find(names.begin(), names.end(), name) - names.begin())) = value;
  }
  const fs::path file = fs::path(EVICTSIM_TEST_SCRATCH) / "points.csv";
  fs::create_directories(file.parent_path());
  std::ofstream output(file);
  output << header << '\n';
  for (std::size_t i = 0; i < fields.size(); ++i) output << (i == 0 ? "" : ",") << fields[i];
  output << '\n';
  return file;
}

std::string status_of(const std::vector<std::pair<std::string, std::string>>& changes) {
  const std::vector<PointPrediction> predictions = predict_points(with_row(changes));
  REQUIRE(predictions.size() == 1);
  const bool predicted = std::isfinite(predictions[0].ttft_ms) && std::isfinite(predictions[0].tpot_ms);
  CHECK(predicted == (predictions[0].status == "ok"));
  return predictions[0].status;
}

}  // namespace

TEST_CASE(
    "predictions of the sample lie as close to measurements as docs/accuracy.md says of points that were fitted to") {
  use_data();
  std::vector<double> first_token, per_output_token, apart;
  const std::vector<MeasuredPoint> points = read_measured_points(sample);
  CHECK(points.size() == 315);
  for (const MeasuredPoint& point : points) {
    if (point.status != "ok") continue;
    if (point.prefill) {
      apart.push_back(std::abs(predict(point).per_output_token / point.per_output_token_seconds - 1));
      continue;
    }
    const ClosedLoopTimes times = predict(point);
    first_token.push_back(std::abs(times.first_token / point.first_token_seconds - 1));
    per_output_token.push_back(std::abs(times.per_output_token / point.per_output_token_seconds - 1));
  }
  REQUIRE(per_output_token.size() >= 270);
  double sum = 0;
  for (const double error : per_output_token) sum += error;
  // A quarter above what the whole table of fitted points shows: a sample scatters.
  CHECK(median(per_output_token) < 0.04);
  CHECK(sum / static_cast<double>(per_output_token.size()) < 0.09);
  CHECK(median(first_token) < 0.13);
  REQUIRE(apart.size() >= 15);
  CHECK(median(apart) < 0.06);
}

TEST_CASE("what cannot be predicted says so instead") {
  use_data();
  CHECK(status_of({}) == "ok");
  CHECK(status_of({{"mode", "both"}}) == "unsupported mode both");
  CHECK(status_of({{"mode", "disagg"}}) == "unsupported mode disagg without prefill_num_workers");
  using Fields = std::vector<std::pair<std::string, std::string>>;
  const auto disaggregated = [](const Fields& more) {
    Fields fields = {{"mode", "disagg"},         {"prefill_num_workers", "1"}, {"decode_num_workers", "2"},
                     {"prefill_tp_size", "4"},   {"decode_tp_size", "8"},      {"prefill_attention_dp_size", "1"},
                     {"decode_moe_tp_size", "8"}};
    fields.insert(fields.end(), more.begin(), more.end());
    return status_of(fields);
  };
  CHECK(disaggregated({}) == "ok");
  CHECK(disaggregated({{"decode_num_workers", ""}}) == "unsupported mode disagg without decode_num_workers");
  CHECK(disaggregated({{"silicon_concurrency", ""}}) == "unsupported mode disagg without silicon_concurrency");
  CHECK(disaggregated({{"prefill_num_workers", "-1"}}) == "unsupported prefill_num_workers -1");
  CHECK(disaggregated({{"prefill_num_workers", "1e8"}}) == "unsupported prefill_num_workers 100000000");
  CHECK(disaggregated({{"decode_tp_size", "80"}}) == "unsupported layout of 80 GPUs");
  CHECK_THAT(disaggregated({{"decode_moe_tp_size", "3"}}), Catch::Contains("moe_expert_parallel"));
  CHECK_THAT(disaggregated({{"prefill_tp_size", "1"}, {"model_path", "moonshotai/Kimi-K2.5"}}),
             Catch::Contains("does not fit"));
  CHECK(status_of({{"model_path", "no/such-model"}}) == "unsupported model no/such-model");
  CHECK(status_of({{"model_path", "/etc/passwd"}}) == "unsupported model /etc/passwd");
  CHECK(status_of({{"system", "abacus"}}) == "unsupported GPU abacus");
  CHECK(status_of({{"backend", "llama.cpp"}}) == "unsupported engine llama.cpp");
  CHECK(status_of({{"gemm_quant_mode", "int1"}, {"moe_quant_mode", "int1"}}) == "unsupported quantisation int1");
  CHECK(status_of({{"isl", "many"}}) == "unsupported isl many");
  CHECK(status_of({{"isl", "-5"}}) == "unsupported isl -5");
  CHECK(status_of({{"osl", "0"}}) == "unsupported osl 0");
  CHECK(status_of({{"osl", "nan"}}) == "unsupported osl nan");
  CHECK(status_of({{"batch_size", ""}, {"silicon_concurrency", ""}}) == "unsupported concurrency 0");
  CHECK(status_of({{"tp_size", "72"}, {"moe_tp_size", "72"}, {"moe_ep_size", "1"}, {"attention_dp_size", "1"}}) ==
        "unsupported layout of 72 GPUs");
  CHECK_THAT(status_of({{"tp_size", "1"},
                        {"moe_tp_size", "1"},
                        {"moe_ep_size", "1"},
                        {"attention_dp_size", "1"},
                        {"model_path", "moonshotai/Kimi-K2.5"}}),
             Catch::Contains("does not fit"));
  CHECK(status_of({{"tp_size", "1000000000"}, {"pp_size", "1000"}}) == "unsupported tp_size 1000000000");
  CHECK(status_of({{"backend_version", "from-the-future"}}) == "ok");
  CHECK(status_of({{"silicon_ttft_ms", ""}, {"silicon_tpot_ms", "?"}}) == "ok");
}

TEST_CASE("a table that lacks a column or part of a row is refused") {
  use_data();
  const fs::path file = fs::path(EVICTSIM_TEST_SCRATCH) / "bad.csv";
  fs::create_directories(file.parent_path());
  std::ofstream(file) << "id,backend\na,vllm\n";
  CHECK_THROWS_WITH(predict_points(file), Catch::Contains("backend_version"));
  std::ofstream(file) << "";
  CHECK_THROWS_AS(predict_points(file), Error);
  const fs::path good = with_row({});
  std::ofstream(good, std::ios::app) << "short,row\n";
  CHECK_THROWS_WITH(predict_points(good), Catch::Contains("fields"));
  CHECK_THROWS_AS(predict_points(fs::path(EVICTSIM_TEST_SCRATCH) / "none.csv"), Error);
}

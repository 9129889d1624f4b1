// Does SqueezeAttention divide budgets among made-up layers as the authors' lines do?
#include <catch2/catch.hpp>
#include <cmath>

#include "policies/policy.h"
#include "tests/golden/agreement.h"

using namespace evictsim;
using namespace evictsim::test;
using policies::Index;

namespace {

/// One head that holds a prompt of so many entries.
class Prompt : public policies::LayerView {
 public:
  explicit Prompt(Index length) : rows_(static_cast<std::size_t>(length)) {}
  [[nodiscard]] const models::Geometry& geometry() const override { return geometry_; }
  [[nodiscard]] const models::Rope& rope() const override { return rope_; }
  [[nodiscard]] int layer() const override { return 0; }
  [[nodiscard]] Index prompt_length() const override { return std::ssize(rows_); }
  [[nodiscard]] Index seen() const override { return std::ssize(rows_); }
  [[nodiscard]] std::span<const std::int32_t> positions() const override { return rows_; }
  [[nodiscard]] int heads() const override { return 1; }
  [[nodiscard]] policies::QueryHeads query_heads(int head) const override { return {head, 1}; }
  [[nodiscard]] std::span<const std::int32_t> entries(int) const override { return rows_; }
  [[nodiscard]] std::span<const float> channel(traces::Channel, int) const override { return {}; }

 private:
  std::vector<std::int32_t> rows_;
  models::Geometry geometry_;
  models::Rope rope_{traces::RopeLayout::none, {}};
};

}  // namespace

TEST_CASE("layer similarities give the layer budgets of the table", "[golden]") {
  const std::string trace = GENERATE("tiny-g1", "tiny-g2", "smollm2");
  const H5File golden(golden_path("seeds-a." + trace + ".golden.h5"));
  if (!golden.has("/squeezeattention-table")) {
    SUCCEED("no table beside this trace");
    return;
  }
  for (const std::string& name : golden.children("/squeezeattention-table")) {
    const std::string path = "/squeezeattention-table/" + name;
    const auto attributes = golden.attributes(path);
    const double share = std::stod(attributes.at("b_init"));
    const Index prompt = std::stol(attributes.at("prompt_length"));
    const std::vector<double> similarity = golden.read(path + "/similarity").values;
    const Prompt layer(prompt);
    const policies::LayerScores scores(layer);
    std::vector<policies::AllocationRequest> requests;
    for (const double& value : similarity) {
      const double exact = static_cast<double>(prompt) * share;
      requests.push_back({.budget = {.cached = prompt, .entries = static_cast<Index>(exact), .exact_entries = exact},
                          .num_layers = static_cast<int>(similarity.size()),
                          .scores = &scores,
                          .prompt_length = prompt,
                          .seen = prompt,
                          .measured = {&value, 1}});
    }
    std::vector<std::vector<Index>> counts(requests.size(), std::vector<Index>(1));
    const std::string text = "squeezeattention(window,p=" + attributes.at("p") + ")";
    policies::parse_policy(text).allocator->allocate_model(requests, counts);
    std::vector<double> ours;
    for (const std::vector<Index>& count : counts) ours.push_back(static_cast<double>(count.front()));
    CAPTURE(trace, name, text);
    CHECK(ours == golden.read(path + "/layer_budget").values);
  }
}

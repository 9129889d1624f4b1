// Do the original variants (not kvpress') keep and score what their authors' code does?
#include <catch2/catch.hpp>

#include <cmath>
#include <limits>
#include <set>

#include "tests/golden/agreement.h"

namespace {

using namespace evictsim;
using namespace evictsim::test;

constexpr double tolerance = 1e-5;  // of the spread

bool has_policy(const std::string& id) {
  for (const char* family : {"snapkv-", "pyramidkv-", "adakv-", "h2o-prefill", "h2o-real_drop"}) {
    if (id.starts_with(family)) return true;
  }
  return false;
}

std::vector<std::int32_t> rows_without_padding(const double* values, std::size_t count) {
  std::vector<std::int32_t> rows;
  for (std::size_t i = 0; i < count; ++i) {
    if (values[i] >= 0) rows.push_back(static_cast<std::int32_t>(values[i]));
  }
  return rows;
}

/// Golden score rows cover the candidates only; what follows is always kept.
std::vector<double> with_protected(const std::vector<double>& candidates, std::size_t length) {
  std::vector<double> scores = candidates;
  scores.resize(length, static_cast<double>(std::numeric_limits<float>::max()));
  return scores;
}

}  // namespace

TEST_CASE("authors' prompt cuts are reproduced by the policy text of each group", "[golden]") {
  const std::string trace = GENERATE("tiny-g1", "tiny-g2", "smollm2");
  const H5File golden(golden_path("seeds-a." + trace + ".golden.h5"));
  int compared = 0;
  for (const std::string& id : golden.children("/")) {
    if (!has_policy(id)) continue;
    Agreement total;
    for (const std::string& budget : golden.children("/" + id)) {
      if (budget == "score") continue;
      const std::string group = "/" + id + "/" + budget;
      const std::string policy = golden.attributes(group).at("policy");
      CAPTURE(trace, id, budget, policy);
      const ReplayCollector ours = replay_golden(trace, policy, policies::Budget::parse(budget));
      for (std::size_t slot = 0; slot < ours.start.layers.size(); ++slot) {
        const sim::PromptCut& cut = ours.cuts.at({0, slot});
        const std::string number = std::to_string(ours.start.layers[slot]);
        const std::string layer = "/layer_" + std::string(3 - number.size(), '0') + number;
        Scores scores;
        std::vector<std::vector<std::int32_t>> kept;
        std::vector<std::vector<float>> our_scores = cut.scores;
        for (int head = 0; head < cut.cache_heads; ++head) {
          const std::string name = layer + "/head_" + std::to_string(head);
          const auto positions = golden.read(group + name + "/kept").values;
          kept.push_back(rows_without_padding(positions.data(), positions.size()));
          const std::string own = group + name + "/score";
          const auto candidates = golden.read(golden.has(own) ? own : "/" + id + "/score" + name).values;
          scores.push_back(with_protected(candidates, static_cast<std::size_t>(ours.start.prompt_length)));
          // Protected entries have no score in either.
          auto& row = our_scores[static_cast<std::size_t>(head)];
          for (std::size_t i = candidates.size(); i < row.size(); ++i) {
            CHECK(std::isnan(row[i]));
            row[i] = std::numeric_limits<float>::max();
          }
        }
        const bool scaled = id.starts_with("adakv-") || id.starts_with("lava-");
        if (scaled) our_scores.assign(scores.size(), {});
        for (std::size_t head = 0; scaled && head < scores.size(); ++head) {
          our_scores[head].assign(scores[head].begin(), scores[head].end());  // a constant factor: ranks are compared
        }
        total.add(compare_layer(scores, kept, our_scores, cut.kept, tolerance, id.starts_with("adakv-")));
        for (int head = 0; head < cut.cache_heads; ++head) {
          CHECK(cut.kept[static_cast<std::size_t>(head)].size() == kept[static_cast<std::size_t>(head)].size());
        }
        ++compared;
      }
    }
    print_row(trace, id, total);
    CHECK(total.wrong_sets == 0);
    CHECK(total.largest_difference <= tolerance);
    CHECK(total.first_fault.empty());
  }
  CHECK(compared >= 20);
}

TEST_CASE("H2O's evictions row by row are the authors'", "[golden]") {
  const std::string trace = GENERATE("tiny-g1", "tiny-g2", "smollm2");
  const H5File golden(golden_path("seeds-a." + trace + ".golden.h5"));
  int compared = 0;
  for (const std::string& id : golden.children("/")) {
    if (!id.starts_with("h2o-real_drop")) continue;
    for (const std::string& budget : golden.children("/" + id)) {
      if (budget == "score") continue;
      const std::string group = "/" + id + "/" + budget;
      const ReplayCollector ours =
          replay_golden(trace, golden.attributes(group).at("policy"), policies::Budget::parse(budget), true);
      const auto length = static_cast<std::size_t>(ours.start.length);
      const auto rows = golden.read(group + "/decode/rows").values;
      for (std::size_t slot = 0; slot < ours.start.layers.size(); ++slot) {
        const std::string number = std::to_string(ours.start.layers[slot]);
        const std::string layer = group + "/decode/layer_" + std::string(3 - number.size(), '0') + number;
        const CollectedRows& replayed = ours.rows.at({0, slot});
        for (std::size_t head = 0; head < replayed.resident_rows.size(); ++head) {
          const H5Array kept = golden.read(layer + "/head_" + std::to_string(head) + "/kept");
          for (std::size_t r = 0; r < rows.size(); ++r) {
            std::vector<std::int32_t> resident;
            for (std::size_t entry = 0; entry < length; ++entry) {
              if (replayed.resident_rows[head][r * length + entry] != 0)
                resident.push_back(static_cast<std::int32_t>(entry));
            }
            CAPTURE(trace, id, budget, layer, head, r);
            CHECK(resident == rows_without_padding(&kept.values[r * kept.shape[1]], kept.shape[1]));
            ++compared;
          }
        }
      }
    }
  }
  CHECK(compared > 0);
}

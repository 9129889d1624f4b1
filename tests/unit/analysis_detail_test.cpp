// Are entries and tiers by layer, head and step the sums of what a replay reported, and a timeline what they hold?
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "analysis/entry_detail.h"
#include "analysis/tier_detail.h"
#include "tests/unit/analysis_made_up_replay.h"

using namespace evictsim;
using namespace evictsim::analysis;
using evictsim::test::MadeUpReplay;

namespace {

constexpr std::size_t prompt = MadeUpReplay::prompt_length, length = prompt + MadeUpReplay::rows;

SequenceResult accumulate(const MadeUpReplay& replay, const std::vector<std::size_t>& order, const char* axes) {
  SequenceResult kept;
  RunAccumulator accumulator(replay.plan, {{{}}}, DetailAxes::parse(axes),
                             [&](SequenceResult&& result) { kept = std::move(result); });
  replay.send(accumulator, order, 8);
  return kept;
}

const EntryArray& array_of(const std::vector<EntryArray>& arrays, const std::string& name) {
  for (const EntryArray& array : arrays) {
    if (array.name == name) return array;
  }
  FAIL("no array " << name);
  return arrays.front();
}

bool keeps(const std::vector<std::int32_t>& kept, std::size_t entry) {
  return std::binary_search(kept.begin(), kept.end(), static_cast<std::int32_t>(entry));
}

}  // namespace

TEST_CASE("entries are averaged over the axes that are not asked for") {
  const MadeUpReplay replay(7);
  const MadeUpReplay::Point& point = replay.points[1];
  constexpr double heads = MadeUpReplay::query_heads, cache_heads = MadeUpReplay::kv_heads, layers = 3;

  const SequenceResult whole = accumulate(replay, {0, 1, 2}, "entry");
  CHECK(whole.detail.empty());
  CHECK(whole.full_detail.empty());
  REQUIRE(whole.entries.size() == whole.rows.size());
  const EntryArray& kept = array_of(whole.entries[1], "entry_kept");
  const EntryArray& lost = array_of(whole.entries[1], "entry_lost_mass");
  const EntryArray& premature = array_of(whole.entries[1], "entry_premature");
  const EntryArray& attention = array_of(whole.full_entries, "entry_attention_full");
  CHECK(kept.axes == "entry");
  REQUIRE(kept.shape == std::vector<std::size_t>{prompt});
  REQUIRE(lost.shape == std::vector<std::size_t>{length});
  for (std::size_t entry = 0; entry < length; ++entry) {
    double keep = 0, lose = 0, early = 0, attend = 0;
    for (std::size_t layer = 0; layer < 3; ++layer) {
      for (const auto& head : point.kept[layer]) keep += keeps(head, entry) / (layers * cache_heads);
      lose += point.lost_mass[layer][entry] / layers;
      early += point.premature_entries[layer][entry] / layers;
      for (const auto& head : replay.full_attention[layer]) attend += head[entry] / (layers * heads);
    }
    if (entry < prompt) CHECK(kept.values[entry] == Approx(keep).margin(1e-7));
    CHECK(lost.values[entry] == Approx(lose).epsilon(1e-6));
    CHECK(premature.values[entry] == Approx(early).epsilon(1e-6));
    CHECK(attention.values[entry] == Approx(attend).epsilon(1e-6));
  }

  const SequenceResult by_layer = accumulate(replay, {2, 0, 1}, "entry,layer");
  CHECK_FALSE(by_layer.detail.empty());
  const EntryArray& lost_by_layer = array_of(by_layer.entries[1], "entry_lost_mass");
  CHECK(lost_by_layer.axes == "layer,entry");
  REQUIRE(lost_by_layer.shape == std::vector<std::size_t>{3, length});
  CHECK(lost_by_layer.values[2 * length + 5] == Approx(point.lost_mass[2][5]).epsilon(1e-6));

  const SequenceResult by_head = accumulate(replay, {1, 0, 2}, "head,entry");
  const EntryArray& kept_by_head = array_of(by_head.entries[1], "entry_kept");
  CHECK(kept_by_head.axes == "head,entry");
  REQUIRE(kept_by_head.shape == std::vector<std::size_t>{2, prompt});
  double share = 0;
  for (std::size_t layer = 0; layer < 3; ++layer) share += keeps(point.kept[layer][1], 17) / layers;
  CHECK(kept_by_head.values[prompt + 17] == Approx(share).margin(1e-7));
  const EntryArray& attention_by_head = array_of(by_head.full_entries, "entry_attention_full");
  REQUIRE(attention_by_head.shape == std::vector<std::size_t>{4, length});
  CHECK(array_of(by_head.entries[1], "entry_lost_mass").axes == "entry");

  const SequenceResult packed = accumulate(replay, {1, 2, 0}, "head,entry,layer");
  const EntryArray& bits = array_of(packed.entries[1], "entry_kept");
  CHECK(bits.axes == "layer,head,entry");
  CHECK(bits.values.empty());
  REQUIRE(bits.shape == std::vector<std::size_t>{3, 2, prompt / 8});
  REQUIRE(bits.bits.size() == 3 * 2 * prompt / 8);
  for (std::size_t layer = 0; layer < 3; ++layer) {
    for (std::size_t head = 0; head < 2; ++head) {
      for (std::size_t entry = 0; entry < prompt; ++entry) {
        const int bit = bits.bits[(layer * 2 + head) * (prompt / 8) + entry / 8] >> (entry % 8) & 1;
        REQUIRE(bit == (keeps(point.kept[layer][head], entry) ? 1 : 0));
      }
    }
  }
  CHECK(array_of(packed.full_entries, "entry_attended_most_full").shape == std::vector<std::size_t>{3, 4, length});
}

TEST_CASE("entries are the same bits in any order of layers") {
  const MadeUpReplay replay(8);
  for (const char* axes : {"entry", "entry,layer", "entry,head"}) {
    const SequenceResult first = accumulate(replay, {0, 1, 2}, axes);
    for (const std::vector<std::size_t>& order : {std::vector<std::size_t>{2, 1, 0}, {1, 2, 0}}) {
      const SequenceResult other = accumulate(replay, order, axes);
      for (std::size_t row = 0; row < first.entries.size(); ++row) {
        for (std::size_t array = 0; array < first.entries[row].size(); ++array) {
          CHECK(first.entries[row][array].values == other.entries[row][array].values);
        }
      }
      for (std::size_t array = 0; array < first.full_entries.size(); ++array) {
        CHECK(first.full_entries[array].values == other.full_entries[array].values);
      }
    }
  }
}

TEST_CASE("tiers by step: what lies where, what moves, and what is not evaluated") {
  const std::vector<std::int32_t> rows = {10, 11};
  const std::vector<std::int32_t> resident = {5, 7, 6, 8}, evicted = {1, 0, 2, 2};
  std::vector<policies::StepTraffic> traffic(2);
  std::vector<policies::TierBytes> stored(2);
  traffic[1].recalled[policies::Tier::host] = 64.4;
  traffic[1].written[policies::Tier::disk] = 32;
  traffic[1].scanned[policies::Tier::hbm] = 3;
  traffic[1].scanned[policies::Tier::host] = 4;
  stored[0][policies::Tier::hbm] = 100;
  stored[1][policies::Tier::host] = 200;
  const models::Matrix none(2, 1);
  const models::MatrixView view = models::view(none.data(), 2, 1);
  sim::LayerBlock plain{.point = 0,
                        .layer = 0,
                        .rows = rows,
                        .retained_mass = view,
                        .output_error = view,
                        .dilution = view,
                        .entropy = view,
                        .regret = view,
                        .oracle_gain = view,
                        .premature_evictions = view,
                        .error_squared = {},
                        .output_squared = {},
                        .resident = resident,
                        .evicted = evicted,
                        .traffic = {},
                        .resident_rows = {}};
  sim::LayerBlock placed = plain;
  placed.layer = 1;
  placed.traffic = traffic;
  placed.stored = stored;

  const auto arrays_of = [&](bool by_layer, bool with_placement) {
    TierDetail detail(2, 3, by_layer);
    for (std::size_t index = 0; index < 2; ++index) {
      detail.add(plain, index, index, 16);
      if (with_placement) detail.add(placed, index, index, 16);
    }
    std::map<std::string, std::vector<double>> arrays;
    for (const DetailArray& array : detail.arrays()) {
      CHECK(array.axes == (by_layer ? "layer,step" : "step"));
      CHECK(array.values.size() == (by_layer ? 6 : 3));
      arrays[array.name] = array.values;
    }
    return arrays;
  };
  const auto alone = arrays_of(false, false);
  REQUIRE(alone.size() == 1);
  CHECK(alone.at("stored_hbm_bytes")[0] == (5 + 7 - 1) * 16);
  CHECK(alone.at("stored_hbm_bytes")[1] == (6 + 8 - 4) * 16);
  CHECK(std::isnan(alone.at("stored_hbm_bytes")[2]));

  const auto summed = arrays_of(false, true);
  CHECK(summed.size() == 9);
  CHECK(summed.at("stored_hbm_bytes")[0] == 11 * 16 + 100);
  CHECK(summed.at("stored_host_bytes")[1] == 200);
  CHECK(summed.at("recalled_host_bytes")[1] == 64);
  CHECK(summed.at("written_disk_bytes")[1] == 32);
  CHECK(summed.at("scanned_bytes")[1] == 7);
  CHECK(summed.at("recalled_disk_bytes")[0] == 0);

  const auto by_layer = arrays_of(true, true);
  CHECK(by_layer.at("stored_hbm_bytes")[0] == 11 * 16);
  CHECK(by_layer.at("stored_hbm_bytes")[3] == 100);
  CHECK(by_layer.at("recalled_host_bytes")[4] == 64);
}

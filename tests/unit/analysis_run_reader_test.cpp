// Do run and plan files read back as they were written, and does detail mean the same however it was asked for?
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "analysis/plan_file.h"
#include "analysis/report/run_detail.h"
#include "analysis/run_file.h"
#include "analysis/run_file_dump.h"
#include "analysis/run_file_reader.h"
#include "tests/unit/analysis_made_up_replay.h"
#include "traces/error.h"
#include "traces/hdf5_handle.h"

using namespace evictsim;
using namespace evictsim::analysis;
using Catch::Matchers::Contains;
using evictsim::test::MadeUpReplay;
using evictsim::test::scratch;

namespace {

Provenance made_up_provenance() {
  Provenance provenance;
  provenance.command_line = "evictsim replay made-up.h5";
  provenance.seed = 17;
  provenance.created = "2026-01-02T03:04:05Z";
  provenance.inputs = {{"made-up.h5", "0123abcd", "some/model"}};
  return provenance;
}

/// Writes a run of the made-up replay with this detail, and answers with its results.
SequenceResult write_run(const std::filesystem::path& path, const MadeUpReplay& replay, const char* per) {
  SequenceResult kept;
  RunFile file(path, replay.plan, made_up_provenance());
  const EvidenceSpans no_evidence = {{{}}};
  RunAccumulator accumulator(replay.plan, no_evidence, DetailAxes::parse(per), [&](SequenceResult&& result) {
    file.add(result);
    kept = std::move(result);
  });
  replay.send(accumulator, {2, 0, 1}, 5);
  file.seal(true);
  return kept;
}

void check_equal(const std::vector<double>& left, const std::vector<double>& right, double tolerance) {
  REQUIRE(left.size() == right.size());
  for (std::size_t i = 0; i < left.size(); ++i) {
    if (std::isnan(left[i])) {
      CHECK(std::isnan(right[i]));
    } else {
      CHECK(left[i] == Approx(right[i]).epsilon(tolerance).margin(tolerance));
    }
  }
}

}  // namespace

TEST_CASE("rows, policies and provenance of a run read back") {
  const std::filesystem::path path = scratch("run_reader") / "run.h5";
  const MadeUpReplay replay(3);
  const SequenceResult result = write_run(path, replay, "layer,head,entry,steps");
  const RunReader reader(path);
  const RunContents& contents = reader.contents();
  CHECK(contents.provenance.command_line == "evictsim replay made-up.h5");
  CHECK(contents.provenance.seed == 17);
  CHECK(contents.provenance.complete);
  REQUIRE(contents.provenance.inputs.size() == 1);
  CHECK(contents.provenance.inputs[0].checksum == "0123abcd");
  REQUIRE(contents.policies.size() == 2);
  CHECK(contents.policies[1].name == "host/tova");
  REQUIRE(contents.rows.size() == result.rows.size());
  for (std::size_t row = 0; row < result.rows.size(); ++row) {
    CHECK(cells(contents.rows[row]) == cells(result.rows[row]));
    // 40 tokens, 3 layers, 2 KV heads, 2 x 8 numbers of 2 bytes.
    CHECK(contents.full_bytes[row] == 40 * 3 * 2 * 32);
    CHECK(reader.layers(row) == std::vector<std::int32_t>{0, 3, 7});
    CHECK(reader.steps(row) == replay.start.decode_rows);
    for (const DetailArray& array : result.detail[row]) {
      const bool apart = array.name.starts_with("by_step/");
      const auto read = reader.detail(row, apart ? array.name.substr(8) : array.name, array.axes);
      REQUIRE(read);
      CHECK(read->shape == array.shape);
      check_equal(read->values, array.values, 0);
    }
    const auto bits = reader.kept(row);
    REQUIRE(bits);
    CHECK((bits->layers == 3 && bits->heads == 2 && bits->entries == 40));
    for (std::size_t layer = 0; layer < 3; ++layer) {
      for (std::size_t head = 0; head < 2; ++head) {
        const auto& kept = replay.points[row].kept[layer][head];
        for (std::int32_t entry = 0; entry < 40; ++entry) {
          CHECK(bits->test(layer * 2 + head, static_cast<std::size_t>(entry)) ==
                std::binary_search(kept.begin(), kept.end(), entry));
        }
      }
    }
  }
  CHECK_FALSE(reader.detail(0, "no_such_metric", "step"));
  CHECK_FALSE(reader.detail(0, "retained_mass", "layer,head,step"));
}

TEST_CASE("detail with more axes is averaged to what is asked") {
  const std::filesystem::path folder = scratch("run_reader_axes");
  const MadeUpReplay replay(4);
  write_run(folder / "cube.h5", replay, "layer,head,step,entry");
  write_run(folder / "apart.h5", replay, "layer,head,entry,steps");
  write_run(folder / "entry.h5", replay, "entry");
  const RunReader cube(folder / "cube.h5"), apart(folder / "apart.h5"), entry(folder / "entry.h5");
  for (std::size_t row = 0; row < 4; ++row) {
    for (const auto& [metric, axes] :
         {std::pair{"retained_mass", "layer,head"}, std::pair{"output_error", "layer,head"},
          std::pair{"output_error", "step"}, std::pair{"squared_error", "step"}, std::pair{"stored_hbm_bytes", "step"},
          std::pair{"layer_error", "layer"}}) {
      INFO(metric << " by " << axes);
      const auto one = cube.detail(row, metric, axes), other = apart.detail(row, metric, axes);
      REQUIRE(one);
      REQUIRE(other);
      check_equal(one->values, other->values, 1e-9);
    }
    for (const char* metric : {"entry_kept", "entry_lost_mass", "entry_premature"}) {
      const auto one = cube.detail(row, metric, "entry"), other = entry.detail(row, metric, "entry");
      REQUIRE(one);
      REQUIRE(other);
      check_equal(one->values, other->values, 1e-6);
    }
  }
}

TEST_CASE("sections of a report are the means of the detail") {
  const std::filesystem::path path = scratch("run_reader_sections") / "run.h5";
  const MadeUpReplay replay(5);
  const SequenceResult result = write_run(path, replay, "layer,head,entry,steps");
  const RunReader reader(path);
  const PointGrid grid(reader.contents());
  REQUIRE(grid.size() == 4);
  const auto heads = head_maps(grid, reader);
  REQUIRE(heads);
  CHECK((heads->heads == 4 && heads->sequences == 1 && heads->layers.size() == 3));
  const auto curves = step_curves(grid, reader);
  REQUIRE(curves);
  CHECK(curves->steps.size() == MadeUpReplay::rows);
  const auto positions = position_means(grid, reader);
  REQUIRE(positions);
  CHECK(positions->edges.front() == 0);
  CHECK(positions->edges.back() == 40);
  std::size_t left_out = 1;
  const auto tokens = token_maps(grid, reader, {}, left_out);
  REQUIRE(tokens.size() == 1);
  CHECK(left_out == 0);
  for (std::size_t point = 0; point < 4; ++point) {
    // Rows come in the order of the plan's points, and so does the grid.
    const MadeUpReplay::Point& made = replay.points[point];
    double kept = 0, evicted = 0;
    for (std::size_t bin = 0; bin < 32; ++bin) {
      const double width = positions->edges[bin + 1] - positions->edges[bin];
      evicted += positions->evicted[point * 32 + bin] * width;
    }
    for (const auto& layer : made.kept) {
      for (const auto& head : layer) kept += static_cast<double>(head.size());
    }
    CHECK(evicted == Approx(40 - kept / 6));
    double shares = 0;
    for (std::size_t token = 0; token < 40; ++token) shares += tokens[0].kept[point * 40 + token];
    CHECK(shares == Approx(kept / 6));
    double error = 0;
    for (int row = 0; row < MadeUpReplay::rows; ++row)
      error += static_cast<double>(made.output_error[1][static_cast<std::size_t>(row)][2]);
    CHECK(heads->metrics[0].name == "output_error");
    CHECK(heads->metrics[0].values[point * 12 + 4 + 2] == Approx(error / MadeUpReplay::rows).epsilon(1e-6));
    double at_seven = 0;
    for (std::size_t layer = 0; layer < 3; ++layer) {
      for (std::size_t head = 0; head < 4; ++head) at_seven += static_cast<double>(made.output_error[layer][7][head]);
    }
    CHECK(curves->metrics[0].values[point * MadeUpReplay::rows + 7] == Approx(at_seven / 12).epsilon(1e-6));
  }
  CHECK(tokens[0].heads == 2);
  CHECK(tokens[0].bits.size() == 4 * 6 * 5);

  // Limits leave out budgets and policies, then the sequence.
  const auto fewer = token_maps(grid, reader, {.elements = 90, .head_bytes = 30}, left_out);
  REQUIRE(fewer.size() == 1);
  CHECK(fewer[0].kept.size() <= 90);
  CHECK(fewer[0].bits.size() == 30);
  CHECK(token_maps(grid, reader, {.elements = 39, .head_bytes = 0}, left_out).empty());
  CHECK(left_out == 1);
}

TEST_CASE("a dump says what the cuts of a run kept that does not say so itself") {
  const std::filesystem::path folder = scratch("run_reader_dump");
  const MadeUpReplay replay(6);
  write_run(folder / "plain.h5", replay, "layer");
  write_run(folder / "bits.h5", replay, "layer,head,entry");
  {
    const EvidenceSpans no_evidence = {{{}}};
    RunAccumulator sink(replay.plan, no_evidence, {}, [](SequenceResult&&) {});
    DumpObserver dump(folder / "kept.h5", replay.plan, {}, made_up_provenance(), sink);
    replay.send(dump, {0, 1, 2}, 8);
    dump.seal();
  }
  RunReader plain(folder / "plain.h5");
  const RunReader bits(folder / "bits.h5");
  CHECK_FALSE(plain.kept(0));
  const auto dump = std::make_shared<const DumpReader>(folder / "kept.h5");
  CHECK(plain.fits(*dump));
  plain.use(dump);
  for (std::size_t row = 0; row < 4; ++row) {
    const auto one = plain.kept(row), other = bits.kept(row);
    REQUIRE(one);
    REQUIRE(other);
    CHECK(one->bytes == other->bytes);
    check_equal(plain.detail(row, "entry_kept", "entry")->values, bits.detail(row, "entry_kept", "entry")->values,
                1e-12);
  }
}

TEST_CASE("a plan reads back with what lies behind its rows") {
  const std::filesystem::path path = scratch("plan_reader") / "plan.h5";
  std::vector<PlanRow> rows(3);
  std::vector<PlanBackground> backgrounds(3);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i].model = "m";
    rows[i].status = i == 2 ? "does not fit" : "ok";
    rows[i].rate = static_cast<double>(i) + 0.5;
    rows[i].slo = "ttft_p99=2s";
    if (i == 2) continue;
    sim::ServingResult result;
    result.replicas.resize(2);
    for (sim::ReplicaTotals& replica : result.replicas) replica.blocks = 10;
    const std::size_t samples = i == 0 ? 250 : 7;
    for (std::size_t sample = 0; sample < samples; ++sample) {
      result.series.push_back(
          {static_cast<sim::Time>(sample) * 1000000000, static_cast<std::int64_t>(sample % 20), 3, 1});
    }
    backgrounds[i] = {PlanSeries::of(result, 16), {{"visible", 100, "all"}, {"weights", -40, "bf16"}}};
  }
  // 250 samples in spans of 3.
  CHECK(backgrounds[0].series.seconds.size() == 84);
  CHECK(backgrounds[0].series.kv_tokens[1] == Approx((3 + 4 + 5) / 3.0 * 16));
  CHECK(backgrounds[0].series.seconds[1] == 3);
  CHECK(backgrounds[1].series.seconds.size() == 7);
  CHECK(backgrounds[1].series.kv_capacity_tokens == 320);
  {
    PlanFile file(path, made_up_provenance());
    for (std::size_t i = 0; i < rows.size(); ++i) file.add(rows[i], backgrounds[i]);
    file.seal(false);
  }
  const PlanContents plan = read_plan(path);
  CHECK_FALSE(plan.provenance.complete);
  REQUIRE(plan.rows.size() == 3);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    CHECK(cells(plan.rows[i]) == cells(rows[i]));
    CHECK(plan.backgrounds[i].series.seconds == backgrounds[i].series.seconds);
    CHECK(plan.backgrounds[i].series.kv_tokens == backgrounds[i].series.kv_tokens);
    CHECK(plan.backgrounds[i].series.waiting == backgrounds[i].series.waiting);
    CHECK(plan.backgrounds[i].kv_budget.size() == backgrounds[i].kv_budget.size());
  }
  CHECK(plan.backgrounds[1].kv_budget[1].bytes == -40);
}

TEST_CASE("files that are not ours, damaged or of a newer format are refused with one clear error") {
  const std::filesystem::path folder = scratch("run_reader_bad");
  const auto code = [](const auto& open) {
    try {
      open();
    } catch (const Error& error) {
      return error.code();
    }
    return ErrorCode::interrupted;
  };
  const auto as_run = [&](const std::filesystem::path& path) { return code([&] { RunReader reader(path); }); };
  const auto as_plan = [&](const std::filesystem::path& path) { return code([&] { (void)read_plan(path); }); };
  const auto as_dump = [&](const std::filesystem::path& path) { return code([&] { DumpReader reader(path); }); };
  write_run(folder / "run.h5", MadeUpReplay(7), "layer");
  CHECK(as_run(folder / "none.h5") == ErrorCode::file_not_found);
  CHECK(as_plan(folder / "run.h5") == ErrorCode::not_a_trace);
  CHECK(as_dump(folder / "run.h5") == ErrorCode::not_a_trace);
  std::ofstream(folder / "text.h5") << "nothing";
  CHECK(as_run(folder / "text.h5") == ErrorCode::not_a_trace);
  std::filesystem::copy_file(folder / "run.h5", folder / "half.h5");
  std::filesystem::resize_file(folder / "half.h5", std::filesystem::file_size(folder / "half.h5") / 2);
  CHECK(as_run(folder / "half.h5") == ErrorCode::not_a_trace);
  const auto made = [&](const char* name, const std::string& format, std::int64_t version) {
    const traces::hdf5::Guard guard;
    const auto root = traces::hdf5::Node::create_file((folder / name).string(), name);
    root.set_attribute("format", format);
    root.set_attribute("format_version", version);
    return folder / name;
  };
  CHECK(as_run(made("newer.h5", "evictsim-run", 2)) == ErrorCode::unsupported_version);
  CHECK(as_plan(made("newer_plan.h5", "evictsim-plan", 9)) == ErrorCode::unsupported_version);
  CHECK(as_dump(made("newer_dump.h5", "evictsim-dump", 2)) == ErrorCode::unsupported_version);
  CHECK(as_run(made("hollow.h5", "evictsim-run", 1)) == ErrorCode::missing_data);
}

// Does a result file hold what it was given, appear only when sealed, and leave nothing behind otherwise?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "analysis/run_file.h"
#include "analysis/run_file_dump.h"
#include "analysis/version.h"
#include "tests/unit/analysis_made_up_replay.h"
#include "traces/error.h"
#include "traces/hdf5_handle.h"

using namespace evictsim;
using namespace evictsim::analysis;
using evictsim::test::MadeUpReplay;
using evictsim::test::scratch;
namespace hdf5 = evictsim::traces::hdf5;

namespace {

hdf5::Node open(const std::filesystem::path& path) {
  return hdf5::Node::open_file(path.string(), std::filesystem::file_size(path));
}

/// All values of a dataset, read as the memory type given.
template <typename Value>
std::vector<Value> values_of(const hdf5::Node& dataset, hid_t type) {
  std::size_t count = 1;
  for (const std::size_t extent : dataset.shape()) count *= extent;
  std::vector<Value> values(count);
  REQUIRE(H5Dread(dataset.id(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) >= 0);
  return values;
}
std::vector<std::int64_t> integers(const hdf5::Node& dataset) {
  return values_of<std::int64_t>(dataset, H5T_NATIVE_INT64);
}
std::vector<double> reals(const hdf5::Node& dataset) { return values_of<double>(dataset, H5T_NATIVE_DOUBLE); }

std::vector<std::string> texts(const hdf5::Node& dataset) {
  const hdf5::Handle type(H5Dget_type(dataset.id()));
  const std::vector<char*> pointers = values_of<char*>(dataset, type.get());
  std::vector<std::string> strings(pointers.begin(), pointers.end());
  for (char* pointer : pointers) H5free_memory(pointer);
  return strings;
}

const EvidenceSpans no_evidence = {{{}}};

Provenance made_up_provenance() {
  Provenance provenance;
  provenance.command_line = "evictsim replay made-up.h5 --policy 'snapkv(window=4)'";
  provenance.seed = 17;
  provenance.created = "2026-01-02T03:04:05Z";
  provenance.inputs = {{"made-up.h5", "0123abcd", "some/model"}};
  return provenance;
}

}  // namespace

TEST_CASE("run.h5 holds rows, summary, provenance, policies and detail") {
  const std::filesystem::path path = scratch("whole") / "run.h5";
  const MadeUpReplay replay(1);
  std::vector<RunRow> rows;
  {
    RunFile file(path, replay.plan, made_up_provenance());
    RunAccumulator accumulator(replay.plan, no_evidence, DetailAxes::parse("layer,head"), [&](SequenceResult&& result) {
      rows = result.rows;
      result.failed.emplace_back(1, "made up");
      file.add(result);
    });
    replay.send(accumulator, {0, 1, 2}, 8);
    CHECK_FALSE(std::filesystem::exists(path));
    file.seal(true);
  }
  CHECK(std::filesystem::exists(path));
  CHECK(std::distance(std::filesystem::directory_iterator(path.parent_path()), {}) == 1);

  const hdf5::Guard guard;
  const hdf5::Node root = open(path);
  CHECK(root.text_attribute("format") == "evictsim-run");
  CHECK(root.integer_attribute("format_version") == 1);

  const hdf5::Node table = root.group("rows");
  CHECK(table.names().size() == column_names().size());
  for (const std::string& column : column_names()) CHECK(table.has(column));
  CHECK(texts(table.dataset("policy")) ==
        std::vector<std::string>{"snapkv(window=4,kernel=3)", "snapkv(window=4,kernel=3)", "host/tova", "host/tova"});
  CHECK(texts(table.dataset("budget")) == std::vector<std::string>{"0.25", "0.5", "0.25", "0.5"});
  CHECK(integers(table.dataset("decode_rows")) == std::vector<std::int64_t>(4, 21));
  const std::vector<double> errors = reals(table.dataset("output_error"));
  REQUIRE(errors.size() == rows.size());
  for (std::size_t index = 0; index < rows.size(); ++index) CHECK(errors[index] == rows[index][Metric::output_error]);
  CHECK(std::isnan(reals(table.dataset("predicted_kl")).front()));

  const hdf5::Node summary = root.group("summary");
  CHECK(reals(summary.dataset("output_error")) == errors);
  CHECK(std::isnan(reals(summary.dataset("output_error_low")).front()));  // one sequence
  CHECK(integers(summary.dataset("sequences")) == std::vector<std::int64_t>(4, 1));

  const hdf5::Node over_budgets = root.group("over_budgets");
  CHECK(texts(over_budgets.dataset("trace")) == std::vector<std::string>(2, "made-up.h5"));
  CHECK(texts(over_budgets.dataset("policy"))[0] == "snapkv(window=4,kernel=3)");
  CHECK(texts(over_budgets.dataset("budgets"))[0] == "0.25,0.5");
  CHECK(integers(over_budgets.dataset("sequences"))[0] == 1);
  CHECK(reals(over_budgets.dataset("normalised_regret"))[0] ==
        Approx((rows[0][Metric::regret] + rows[1][Metric::regret]) /
               (rows[0][Metric::oracle_gain] + rows[1][Metric::oracle_gain])));
  CHECK(std::isnan(reals(over_budgets.dataset("normalised_regret_low"))[0]));

  const hdf5::Node provenance = root.group("provenance");
  CHECK(provenance.text_attribute("evictsim_version") == version());
  CHECK(provenance.text_attribute("command_line") == made_up_provenance().command_line);
  CHECK(provenance.integer_attribute("seed") == 17);
  CHECK(provenance.integer_attribute("complete") == 1);
  CHECK(texts(provenance.group("inputs").dataset("checksum")) == std::vector<std::string>{"0123abcd"});

  const hdf5::Node listed = root.group("policies");
  CHECK(texts(listed.dataset("expansion"))[1] == "expanded host/tova");
  CHECK(texts(listed.dataset("status")) == std::vector<std::string>{"ok", "failed in 1 of 1 sequences: made up"});

  const hdf5::Node detail = root.group("detail").group("trace_0").group("000000");
  CHECK(integers(detail.dataset("layers")) == std::vector<std::int64_t>{0, 3, 7});
  const hdf5::Node mass = detail.group("host|tova").group("0.5").dataset("retained_mass");
  CHECK(mass.text_attribute("axes") == "layer,head");
  CHECK(mass.shape() == std::vector<std::size_t>{3, 4});
  double expected = 0;
  for (const std::vector<float>& row : replay.points[3].retained_mass[1]) expected += double{row[2]} / 21;
  CHECK(reals(mass)[1 * 4 + 2] == Approx(expected).epsilon(1e-12));
}

TEST_CASE("entries lie beside the other detail: packed by layer and head, as shares otherwise") {
  const MadeUpReplay replay(3);
  for (const char* axes : {"entry,layer,head", "entry"}) {
    const std::filesystem::path path = scratch("entries") / "run.h5";
    SequenceResult kept;
    RunFile file(path, replay.plan, made_up_provenance());
    RunAccumulator accumulator(replay.plan, no_evidence, DetailAxes::parse(axes), [&](SequenceResult&& result) {
      file.add(result);
      kept = std::move(result);
    });
    replay.send(accumulator, {1, 0, 2}, 8);
    file.seal(true);

    const hdf5::Guard guard;
    const hdf5::Node root = open(path);
    const hdf5::Node sequence = root.group("detail").group("trace_0").group("000000");
    const auto same = [](const hdf5::Node& group, const EntryArray& array) {
      const hdf5::Node dataset = group.dataset(array.name);
      CHECK(dataset.shape() == array.shape);
      CHECK(dataset.text_attribute("axes") == array.axes);
      if (array.bits.empty()) {
        CHECK(reals(dataset) == std::vector<double>(array.values.begin(), array.values.end()));
        return;
      }
      CHECK(dataset.text_attribute("packed") == "little");
      CHECK(dataset.integer_attribute("entries") == 40);
      CHECK(integers(dataset) == std::vector<std::int64_t>(array.bits.begin(), array.bits.end()));
    };
    REQUIRE(kept.full_entries.size() == 2);
    for (const EntryArray& array : kept.full_entries) same(sequence, array);
    for (std::size_t row = 0; row < kept.rows.size(); ++row) {
      const hdf5::Node group =
          sequence.group(row < 2 ? "snapkv(window=4,kernel=3)" : "host|tova").group(kept.rows[row].budget);
      REQUIRE(kept.entries[row].size() == 3);
      for (const EntryArray& array : kept.entries[row]) same(group, array);
      CHECK(group.has("retained_mass") == (axes != std::string("entry")));
    }
  }
}

TEST_CASE("a file that is not sealed leaves nothing, and an older one of its name as it was") {
  const std::filesystem::path folder = scratch("unsealed");
  const MadeUpReplay replay(1);
  { const RunFile file(folder / "run.h5", replay.plan, {}); }
  CHECK(std::filesystem::is_empty(folder));
  std::ofstream(folder / "run.h5") << "older";
  { const RunFile file(folder / "run.h5", replay.plan, {}); }
  CHECK(std::filesystem::file_size(folder / "run.h5") == 5);
}

TEST_CASE("places that cannot be written are refused at once, by the user's name for them") {
  const std::filesystem::path folder = scratch("refused");
  const MadeUpReplay replay(1);
  const auto message = [&](const std::filesystem::path& path) -> std::string {
    try {
      const RunFile file(path, replay.plan, {});
    } catch (const Error& problem) {
      return problem.what();
    }
    return "";
  };
  CHECK(message(folder / "missing" / "run.h5") ==
        (folder / "missing" / "run.h5").string() + ": cannot create the file: No such file or directory");
  CHECK(message(folder).find("a directory") != std::string::npos);
  CHECK(std::filesystem::is_empty(folder));
  CHECK(message("/dev/full").find("is not a regular file") != std::string::npos);
}

TEST_CASE("the dump holds kept entries, scores and resident rows") {
  const std::filesystem::path path = scratch("dump") / "kept.h5";
  const MadeUpReplay replay(6);
  RunAccumulator accumulator(replay.plan, no_evidence, {}, [](SequenceResult&&) {});
  DumpObserver dump(path, replay.plan, {}, made_up_provenance(), accumulator);
  replay.send(dump, {2, 0, 1}, 4);
  dump.seal();

  const hdf5::Guard guard;
  const hdf5::Node root = open(path);
  CHECK(root.text_attribute("evictsim_version") == version());
  CHECK(root.text_attribute("command_line") == made_up_provenance().command_line);
  CHECK(root.integer_attribute("seed") == 17);
  CHECK(root.text_attribute("inputs") == "0123abcd  made-up.h5\n");
  // "host" is the way from the text "host/tova" to its group.
  CHECK(root.names() == std::vector<std::string>{"host", "host|tova", "snapkv(window=4,kernel=3)"});
  CHECK(H5Oexists_by_name(root.id(), "host/tova", H5P_DEFAULT) > 0);
  CHECK(root.group("host|tova").text_attribute("policy") == "host/tova");
  CHECK(root.group("host|tova").text_attribute("expansion") == "expanded host/tova");
  for (std::size_t point = 0; point < replay.points.size(); ++point) {
    const std::string policy = point < 2 ? "snapkv(window=4,kernel=3)" : "host|tova";
    const hdf5::Node sequence = root.group(policy).group(replay.plan.points[point].budget.text()).group("000000");
    for (std::size_t layer = 0; layer < 3; ++layer) {
      const char* names[] = {"layer_000", "layer_003", "layer_007"};
      const hdf5::Node layer_group = sequence.group(names[layer]);
      for (std::size_t index = 0; index < 2; ++index) {
        const hdf5::Node head = layer_group.group("head_" + std::to_string(index));
        const std::vector<std::int32_t>& kept = replay.points[point].kept[layer][index];
        CHECK(integers(head.dataset("kept")) == std::vector<std::int64_t>(kept.begin(), kept.end()));
        CHECK(reals(head.dataset("score")) == std::vector<double>(40, static_cast<double>(point)));
        CHECK(head.has("resident") == (point >= 2));
        if (point < 2) continue;
        const hdf5::Node resident = head.dataset("resident");
        REQUIRE(resident.shape() == std::vector<std::size_t>{21, 61});
        const std::vector<std::int64_t> values = integers(resident);
        for (std::size_t row = 0; row < 21; ++row) {
          for (std::size_t entry = 0; entry < 61; ++entry)
            REQUIRE(values[row * 61 + entry] == (entry % (row + 2) != 0));
        }
      }
    }
    CHECK(sequence.has("rows") == (point >= 2));
    if (point >= 2) CHECK(integers(sequence.dataset("rows")).front() == 40);
  }
}

TEST_CASE("the dump's bytes do not depend on the order in which layers come, and nothing else is left") {
  const std::filesystem::path folder = scratch("dump-order");
  const MadeUpReplay replay(6);
  const auto bytes = [&](const std::vector<std::size_t>& order, std::size_t block_rows) {
    const std::filesystem::path path = folder / "kept.h5";
    RunAccumulator accumulator(replay.plan, no_evidence, {}, [](SequenceResult&&) {});
    DumpObserver dump(path, replay.plan, {}, made_up_provenance(), accumulator);
    replay.send(dump, order, block_rows);
    dump.seal();
    std::ifstream stream(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(stream), {});
  };
  const std::string expected = bytes({0, 1, 2}, 4);
  CHECK(expected.size() > 1000);
  CHECK(bytes({2, 0, 1}, 4) == expected);
  CHECK(bytes({1, 2, 0}, 7) == expected);
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 1);

  // Times in whole seconds would make the bytes differ only now and then.
  const hdf5::Guard guard;
  std::vector<std::string> timed;
  const auto visit = [](hid_t, const char* name, const H5O_info_t* object, void* names) -> herr_t {
    if (object->ctime != 0) static_cast<std::vector<std::string>*>(names)->emplace_back(name);
    return 0;
  };
  H5Ovisit2(open(folder / "kept.h5").id(), H5_INDEX_NAME, H5_ITER_NATIVE, visit, &timed, H5O_INFO_TIME);
  CHECK(timed == std::vector<std::string>{});
}

TEST_CASE("a dump keeps finished sequences of an interrupted run, and nothing of failed policies") {
  const std::filesystem::path path = scratch("interrupted") / "kept.h5";
  MadeUpReplay replay(7);
  RunAccumulator accumulator(replay.plan, {{{}, {}}}, {}, [](SequenceResult&&) {});
  DumpObserver dump(path, replay.plan, {}, made_up_provenance(), accumulator);
  dump.begin_sequence(replay.start);
  replay.send_layer(dump, 0, 4);
  dump.failed(1, "made up");
  replay.send_layer(dump, 1, 4);
  replay.send_layer(dump, 2, 4);
  dump.end_sequence();
  replay.start.name = "000001";
  replay.start.sequence = 1;
  dump.begin_sequence(replay.start);
  replay.send_layer(dump, 0, 4);
  dump.seal();

  const hdf5::Guard guard;
  const hdf5::Node root = open(path);
  CHECK(root.group("snapkv(window=4,kernel=3)").group("0.5").names() == std::vector<std::string>{"000000"});
  CHECK(root.group("host|tova").group("0.5").names().empty());
}
